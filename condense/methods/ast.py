"""AST: alignment with smooth and high-quality expert trajectories.

Shen, Yang and Lam, 2023, arXiv 2310.10541, with the numbers of its released code. MTT, and each for itself

* smooth experts (`condense.experts.ExpertPlan`): SGD with momentum, a cross-entropy whose factor grows from `clip_loss`
  to 1, and a penalty on the gradient by the images;
* init = representative: of each class, the real images nearest to the k-means centres of an expert's logits;
* weight_perturb = alpha: an inner run starts from W + alpha W d / |d|, for each convolution W with d normal;
* momentum_syn: momentum of the inner steps, through which the gradient is exact too;
* balance_loss: with m = floor(T / 2), the inner loss of a segment that starts at epoch t is multiplied by

      log_5(t - m + 8) for t >= m,    1 / log_5(m - t + 8) for t < m

* intermediate: the student is matched after (N // M) j steps too, to the expert's epoch t + j, for j = 1 .. M - 1:

      L = L_N + sum over j of beta_j L_j,    beta_j = 1 (agg)    or    j / M (adaptive)

With all of them off this is MTT, bit for bit.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from condense.experts import ExpertPlan
from condense.methods.base import MethodConfig, Problem, register
from condense.methods.mtt import MTT, MTTConfig, Segment
from condense.networks import Network
from condense.objectives import normalised_distance
from condense.synthetic import State, nearest_to_centres, refuse_small_classes
from condense.unroll import InnerRun, InnerStep, OuterLoss, Unrolled

DECAY_EPOCH = 27
"""From this epoch on the experts have the lower learning rate: E / 2 + 2 of the published E = 50."""


class ASTConfig(MTTConfig):
    """Hyper-parameters of AST: those of MTT, and one key or two for each of its parts."""

    init: Literal["representative", "real", "noise", "mean", "kmeans"] = Field(  # type: ignore[assignment]
        "representative", description="where the images start; representative: by k-means on an expert's logits"
    )
    lr_img: float = Field(1000.0, gt=0, description="learning rate of the images")
    expert_lr: float = Field(0.003, gt=0, description="learning rate of expert training")
    expert_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of expert training")
    expert_weight_decay: float = Field(1e-3, ge=0, description="weight decay of expert training")
    expert_decay: float = Field(
        0.6, gt=0, le=1, description=f"factor on their learning rate from epoch {DECAY_EPOCH} on"
    )
    clip_loss: float = Field(0.5, gt=0, le=1, description="factor on the experts' loss in epoch 0; 1 turns it off")
    clip_epochs: int = Field(10, ge=1, description="epochs in which that factor grows to 1")
    gradient_penalty: float = Field(2.0, ge=0, description="weight of the experts' gradient penalty; 0 turns it off")
    weight_perturb: float = Field(1.0, ge=0, description="alpha: size of the perturbed start; 0 turns it off")
    momentum_syn: float = Field(0.9, ge=0, lt=1, description="momentum of the inner steps")
    balance_loss: bool = Field(True, description="weigh the inner loss by the start epoch")
    intermediate: Literal["agg", "adaptive", "none"] = Field(
        "agg", validate_default=True, description="weights of the losses between start and end: 1, or j / M; none: off"
    )

    @field_validator("intermediate")
    @classmethod
    def _has_room(cls, kind: str, info: ValidationInfo) -> str:
        steps, epochs = info.data.get("syn_steps", math.inf), info.data.get("expert_epochs", 1)
        if kind != "none" and steps < epochs:
            raise ValueError(
                f"intermediate = {kind!r}: needs a step for each epoch, but syn_steps = {steps} and expert_epochs = "
                f"{epochs}. Raise syn_steps, or set intermediate to none"
            )
        return kind

    def expert_plan(self, dsa: str) -> ExpertPlan:
        """MTT's plan made smooth; with all of that off it is MTT's plan."""
        smooth: dict[str, object] = {"weight_decay": self.expert_weight_decay}
        if self.expert_decay != 1:
            smooth |= {"decay_epochs": (DECAY_EPOCH,), "decay_factor": self.expert_decay}
        if self.clip_loss != 1:
            smooth |= {"clip_loss": self.clip_loss, "clip_epochs": self.clip_epochs}
        if self.gradient_penalty:
            smooth |= {"gradient_penalty": self.gradient_penalty}
        return super().expert_plan(dsa).model_copy(update=smooth)


def balance(epoch: int, max_start_epoch: int) -> float:
    """The factor on the inner loss of a segment that starts at this epoch."""
    late = epoch - max_start_epoch // 2
    return math.log(late + 8, 5) if late >= 0 else 1 / math.log(8 - late, 5)


def perturbed(network: Network, theta: Tensor, alpha: float, draws: torch.Generator) -> Tensor:
    """theta [P] with each convolution W as W + alpha W d / |d|, where d is standard normal."""
    parts = []
    for W in network.split(theta).values():
        if W.ndim == 4:
            d = torch.randn(W.shape, generator=draws).to(W)
            W = W + alpha * W * d / d.norm()
        parts.append(W.flatten())
    return torch.cat(parts)


@register
class AST(MTT[ASTConfig]):
    name: ClassVar[str] = "ast"
    summary: ClassVar[str] = "MTT with smooth experts, a representative start, and intermediate matching"
    citation: ClassVar[str] = """@misc{shen2023ast,
  title = {{AST}: Effective Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories},
  author = {Shen, Jiyuan and Yang, Wenzhuo and Lam, Kwok-Yan},
  year = {2023}, eprint = {2310.10541}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = ASTConfig

    def start(self, problem: Problem, count: int) -> Tensor:
        """With init = representative: by the logits of one expert, drawn at random, at the last epoch of a target."""
        if self.config.init != "representative":
            return super().start(problem, count)
        assert problem.experts is not None
        refuse_small_classes(self.config.init, problem.members, count)
        draws, chosen = problem.rng("init.images"), []
        expert = int(torch.randint(self.config.num_experts, (), generator=draws))
        theta = problem.experts.snapshot(expert, self.config.last_target)
        for members in problem.members:
            logits = problem.logits(theta, problem.inputs[members]).double().cpu()
            seed = int(torch.randint(2**31, (), generator=draws))
            chosen.append(members[nearest_to_centres(logits, count, seed)])
        return problem.inputs[torch.cat(chosen)]

    def segments(self, problem: Problem, iteration: int) -> list[Segment]:
        segments, alpha = super().segments(problem, iteration), self.config.weight_perturb
        if not alpha:
            return segments
        draws = problem.rng("perturb", iteration)
        return [replace(each, start=perturbed(problem.network, each.start, alpha, draws)) for each in segments]

    def inner_run(
        self, state: State, problem: Problem, segment: Segment, images: Tensor, steps: Sequence[InnerStep]
    ) -> InnerRun:
        """The factor on the inner loss is one on the learning rate: both multiply every step, also with momentum."""
        run = super().inner_run(state, problem, segment, images, steps)
        waypoints, lr = self.waypoints(problem, segment), self.factor(segment) * run.lr
        return replace(run, lr=lr, momentum=self.config.momentum_syn, waypoints=waypoints)

    def unroll(
        self, state: State, problem: Problem, segment: Segment, images: Tensor, steps: Sequence[InnerStep]
    ) -> Unrolled:
        found = super().unroll(state, problem, segment, images, steps)
        return replace(found, lr=self.factor(segment) * found.lr)

    def factor(self, segment: Segment) -> float:
        """The factor on the inner loss of a segment."""
        return balance(segment.epoch, self.config.max_start_epoch) if self.config.balance_loss else 1.0

    def waypoints(self, problem: Problem, segment: Segment) -> dict[int, OuterLoss]:
        """beta_j L_j, under the number of steps after which it is taken."""
        c = self.config
        if c.intermediate == "none":
            return {}
        M = c.expert_epochs
        return {
            c.syn_steps // M * j: self.waypoint(problem, segment, j, 1.0 if c.intermediate == "agg" else j / M)
            for j in range(1, M)
        }

    def waypoint(self, problem: Problem, segment: Segment, j: int, weight: float) -> OuterLoss:
        assert problem.experts is not None
        target = problem.experts.snapshot(segment.expert, segment.epoch + j)
        return lambda theta: weight * normalised_distance(theta, segment.start, target)
