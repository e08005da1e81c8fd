"""DATM: difficulty-aligned trajectory matching.

Guo, Wang, Cazenavette, Li, Zhang and You, ICLR 2024, arXiv 2310.05773. FTD without its moving average, and

* segments start between two epochs that suit the size of the set: early ones teach easy patterns, for few images, late
  ones hard patterns, for many. t is uniform on L .. U - 1, and the upper bound grows in `expansion_end_epoch` = E
  iterations from `current_max_start_epoch` = U_0 to `max_start_epoch` = T:

      U(i) = min(U_0 + floor((T - U_0) i / E), T)

* the labels are learned: y = softmax(l), with logits l that start at the mean of what those experts say of an image
  that predict its class, and descend with a momentum SGD of their own;
* the images start from real ones that an expert predicts correctly;
* nothing moves in an iteration whose loss is above `threshold`. 1 is the loss of a student that does not move.

With L = 0, U_0 = T, hard labels, init = real and no threshold this is FTD, and with rho = 0 MTT, bit for bit.
"""

import math
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from condense.methods.base import MethodConfig, Metrics, Problem, register
from condense.methods.ftd import FTDConfig
from condense.methods.labels import ExpertLabelsConfig
from condense.methods.mtt import MTT, Segment
from condense.synthetic import DistilledSet, State, refuse_small_classes, sgd_
from condense.unroll import Unrolled


class DATMConfig(FTDConfig, ExpertLabelsConfig):
    """Hyper-parameters of DATM: those of FTD, the range of the start epochs, and those of the labels."""

    iterations: int = Field(10000, ge=0, description="updates of the synthetic set")
    init: Literal["correct", "real", "noise", "mean", "kmeans"] = Field(  # type: ignore[assignment]
        "correct", description="where the images start; correct: real ones that an expert predicts correctly"
    )
    alpha: float = Field(0.3, ge=0, description="GSAM: weight of the surrogate gap")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the images' moving average; 0 turns it off")
    min_start_epoch: int = Field(0, ge=0, description="L: the first epoch at which segments start")
    current_max_start_epoch: int | None = Field(
        None, ge=1, description="U_0: they start before this epoch at the beginning; none: before max_start_epoch"
    )
    expansion_end_epoch: int = Field(
        0,
        ge=0,
        validate_default=True,
        description="E: iterations in which that grows to max_start_epoch (published under this name)",
    )
    soft_labels: bool = Field(True, description="learn the labels, from what the experts say; else hard ones")
    lr_y: float = Field(2.0, ge=0, description="learning rate of the labels' logits")
    momentum_y: float = Field(0.9, ge=0, lt=1, description="momentum of the labels' logits")
    threshold: float | None = Field(1.0, gt=0, description="an iteration with a higher loss changes nothing; none: any")

    @property
    def uses_label_epoch(self) -> bool:
        return self.soft_labels or self.init == "correct"

    @field_validator("min_start_epoch")
    @classmethod
    def _below_the_last(cls, first: int, info: ValidationInfo) -> int:
        last = info.data.get("max_start_epoch", math.inf)
        if first >= last:
            raise ValueError(f"min_start_epoch = {first}: must be below max_start_epoch = {last}")
        return first

    @field_validator("current_max_start_epoch")
    @classmethod
    def _between_the_bounds(cls, current: int | None, info: ValidationInfo) -> int | None:
        first, last = info.data.get("min_start_epoch", 0), info.data.get("max_start_epoch", math.inf)
        if current is not None and not first < current <= last:
            raise ValueError(
                f"current_max_start_epoch = {current}: must be above min_start_epoch = {first} and at most "
                f"max_start_epoch = {last}"
            )
        return current

    @field_validator("expansion_end_epoch")
    @classmethod
    def _comes_with_a_range_that_grows(cls, iterations: int, info: ValidationInfo) -> int:
        current = info.data.get("current_max_start_epoch")
        if current is not None and not iterations:
            raise ValueError(
                f"expansion_end_epoch = 0: with current_max_start_epoch = {current} it must be above 0, the iterations "
                "in which the range grows; or leave current_max_start_epoch out"
            )
        return iterations


C = TypeVar("C", bound=DATMConfig)


@register
class DATM(MTT[C]):
    name: ClassVar[str] = "datm"
    summary: ClassVar[str] = "FTD with start epochs that suit the size of the set, and learned soft labels"
    citation: ClassVar[str] = """@inproceedings{guo2024datm,
  title = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},
  author = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},
  booktitle = {ICLR}, year = {2024}, eprint = {2310.05773}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = DATMConfig

    def init(self, problem: Problem) -> State:
        """As MTT; soft labels are kept as logits, with their momentum."""
        state = super().init(problem)
        if self.config.soft_labels:
            state["labels"] = self.initial_logits(problem, state["images"], state["labels"])
            state["labels.momentum"] = torch.zeros_like(state["labels"])
        return state

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:
        metrics = super().step(state, problem, iteration)
        return metrics | {"updated": float(self.accepts(metrics["loss"]))}

    def start_epochs(self, iteration: int) -> tuple[int, int]:
        c = self.config
        end = c.max_start_epoch
        if c.current_max_start_epoch is not None and iteration < c.expansion_end_epoch:
            grown = (end - c.current_max_start_epoch) * iteration // c.expansion_end_epoch
            end = c.current_max_start_epoch + grown
        return c.min_start_epoch, end

    def labels(self, state: State, problem: Problem, segment: Segment) -> Tensor:
        labels = super().labels(state, problem, segment)
        return labels.softmax(1) if self.config.soft_labels else labels

    def accepts(self, loss: float) -> bool:
        """Whether an iteration with this loss changes anything."""
        return self.config.threshold is None or loss <= self.config.threshold

    def update(self, state: State, found: Unrolled) -> None:
        c = self.config
        if not self.accepts(float(found.loss)):
            return
        if c.soft_labels:
            assert found.labels is not None
            y = state["labels"].softmax(1)
            gradient = y * (found.labels - (y * found.labels).sum(1, keepdim=True))  # by the logits
            sgd_(state, "labels", gradient, lr=c.lr_y, momentum=c.momentum_y)
        super().update(state, found)

    def distilled(self, state: State, problem: Problem) -> DistilledSet:
        if self.config.soft_labels:
            state = state | {"labels": state["labels"].softmax(1)}
        return super().distilled(state, problem)

    def snapshot(self, problem: Problem, expert: int) -> Tensor:
        """theta [P] with which an expert judges images."""
        assert problem.experts is not None
        return problem.experts.snapshot(expert, self.config.labelled_at)

    def initial_logits(self, problem: Problem, stored: Tensor, y: Tensor) -> Tensor:
        """l [n, classes]: for each stored image the mean over the experts that predict its class y [n].

        Over all experts if none does.
        """
        everyone = of_correct = torch.zeros(len(stored), problem.network.classes).to(stored)
        count = torch.zeros(len(stored), 1).to(stored)
        for expert in range(self.config.num_experts):
            logits = self.logits(problem, self.snapshot(problem, expert), stored)
            correct = (logits.argmax(1) == y)[:, None]
            everyone, of_correct, count = everyone + logits, of_correct + correct * logits, count + correct
        return torch.where(count > 0, of_correct / count.clamp(min=1), everyone / self.config.num_experts)

    def start(self, problem: Problem, count: int) -> Tensor:
        """With init = correct: of each class, in a random order, the images that expert 0 predicts correctly.

        If these are too few, then those of expert 1, and so on; and where all experts together know too few, those that
        the last expert comes nearest to, by the logit of the class minus the largest other one.
        """
        if self.config.init != "correct":
            return super().start(problem, count)
        refuse_small_classes(self.config.init, problem.members, count)
        draws, chosen = problem.rng("init.images"), []
        for c, members in enumerate(problem.members):
            order, known = members[torch.randperm(len(members), generator=draws)], dict[int, None]()
            for expert in range(self.config.num_experts):
                margins = self.margins(problem, expert, order, c)
                known |= dict.fromkeys(order[margins > 0].tolist())
                if len(known) >= count:
                    break
            known |= dict.fromkeys(order[margins.argsort(descending=True)].tolist())
            chosen += list(known)[:count]
        return problem.inputs[torch.tensor(chosen)]

    def margins(self, problem: Problem, expert: int, rows: Tensor, c: int) -> Tensor:
        """For each of these training images the logit of class c minus the largest of the others, on the CPU."""
        logits = problem.logits(self.snapshot(problem, expert), problem.inputs[rows]).cpu()
        others = logits.clone()
        others[:, c] = -torch.inf
        return logits[:, c] - others.max(1).values
