"""MTT: dataset distillation by matching training trajectories.

Cazenavette, Wang, Torralba, Efros and Zhu, CVPR 2022, arXiv 2203.11932, algorithm 1. One iteration:

    theta_0 = theta*_t, target = theta*_{t+M}      a segment of a random expert, t uniform on 0 .. T-1
    theta_{i+1} = theta_i - a grad CE(theta_i; A_i(x_i), y_i)      N steps on mini-batches of the synthetic set
    L = |theta_N - target|^2 / |theta_0 - target|^2
    images and a descend dL/dimages and dL/da

The derivative is exact, through all N steps. With `experts_per_step` = K > 1, L is the mean over K segments, each drawn
for itself with its own mini-batches: the published algorithm has K = 1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from condense.experts import ExpertPlan
from condense.methods.base import ExpertConfig, MethodConfig, Metrics, Need, Problem, check_finite, register
from condense.methods.learned import Learned, LearnedConfig
from condense.objectives import normalised_distance
from condense.synthetic import DistilledSet, State, sgd_
from condense.unroll import ENGINES, InnerRun, InnerStep, OuterLoss, Unrolled, average

LOG_LR_RANGE = (math.log(1e-6), math.log(1e3))
"""Far beyond any rate that trains; without it one huge step could take exp(log_lr) to 0 or infinity for good."""


class MTTConfig(LearnedConfig, ExpertConfig):
    """Hyper-parameters of MTT. N, M and T of the paper are syn_steps, expert_epochs and max_start_epoch."""

    iterations: int = Field(5000, ge=0, description="updates of the synthetic set")
    syn_steps: int = Field(20, ge=1, description="N: inner steps on the synthetic set")
    expert_epochs: int = Field(2, ge=1, description="M: expert epochs that the inner steps should cover")
    max_start_epoch: int = Field(20, ge=1, description="T: segments start at epochs 0 .. T-1")
    lr_img: float = Field(100.0, gt=0, description="learning rate of the images")
    lr_lr: float = Field(1e-5, ge=0, description="learning rate of the inner learning rate")
    momentum_lr: float = Field(0.5, ge=0, lt=1, description="momentum of the inner learning rate")
    lr_teacher: float = Field(0.01, ge=1e-6, le=1e3, description="the inner learning rate at the start")
    batch_syn: int | None = Field(None, ge=1, description="stored images in an inner step; none: the whole set")
    experts_per_step: int = Field(1, ge=1, description="expert segments that an update of the set averages over")
    unroll: Literal["adjoint", "graph", "higher", "tesla"] = Field(
        "adjoint", description="how the inner run is differentiated; tesla is an approximation"
    )

    @property
    def last_target(self) -> int:
        """The last epoch that can be a target: T - 1 + M."""
        return self.max_start_epoch - 1 + self.expert_epochs

    def expert_plan(self, dsa: str) -> ExpertPlan:
        """Plain SGD, stopped at the last epoch that can be a target."""
        return ExpertPlan(
            epochs=self.last_target,
            lr=self.expert_lr,
            batch=self.expert_batch,
            momentum=self.expert_momentum,
            dsa=dsa,
        )

    unit: ClassVar[str] = "expert segments (experts_per_step)"

    def units(self, ipc: int, classes: int) -> int:  # noqa: ARG002
        return self.experts_per_step

    def passes(self, classes: int, ipc: int) -> float:
        """A pass of each inner batch, and one forward and backward of three times the size on the way back."""
        n = classes * ipc
        return 4 * self.syn_steps * self.experts_per_step * min(self.batch_syn or n, n) * self.views


M = TypeVar("M", bound=MTTConfig)


@dataclass(frozen=True)
class Segment:
    """What an inner run is to reproduce: an expert from epoch t to t + M, where its theta [P] are start and target."""

    expert: int
    epoch: int
    start: Tensor
    target: Tensor


def inner_batches(n: int, batch: int | None, draws: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of one mini-batch after another, without end.

    Each permutation of the n rows is used up before the next is drawn; a batch that is short because `batch` does not
    divide n comes first, as in the published code. No `batch`, or a larger one than n, is the whole set each time.
    """
    while True:
        yield from reversed(torch.randperm(n, generator=draws).split(batch or n))


def views_of(rows: Tensor, views: int) -> Tensor:
    """The row numbers of all views of the stored images `rows`: an image and its mirror image share a mini-batch."""
    return (rows[:, None] * views + torch.arange(views)).flatten()


@register
class MTT(Learned[M]):
    name: ClassVar[str] = "mtt"
    family: ClassVar[str] = "trajectory"
    summary: ClassVar[str] = "match segments of expert training trajectories, through the exact unrolled gradient"
    citation: ClassVar[str] = """@inproceedings{cazenavette2022mtt,
  title = {Dataset Distillation by Matching Training Trajectories},
  author = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},
  booktitle = {CVPR}, year = {2022}, eprint = {2203.11932}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = MTTConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EXPERTS})

    def init(self, problem: Problem) -> State:
        """The images, and the logarithm of the inner learning rate a with its momentum."""
        state = super().init(problem)
        state["log_lr"] = state["images"].new_tensor(math.log(self.config.lr_teacher))
        state["log_lr.momentum"] = torch.zeros_like(state["log_lr"])
        return state

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:
        stored = state["images"].detach().requires_grad_()
        images = self.expand(stored)
        segments, draws = self.segments(problem, iteration), problem.rng("inner", iteration)
        steps = [self.inner_steps(len(stored), problem, draws) for _ in segments]
        found = average(
            [
                self.unroll(state, problem, segments[k], images.detach(), steps[k])
                for k in problem.work.mine(len(segments))
            ],
            over=len(segments),
        )
        (by_images,) = torch.autograd.grad(images, stored, found.images)
        parts = {"loss": found.loss, "gradient": by_images}
        if found.labels is not None:
            parts["gradient of labels"] = found.labels.view(len(stored), self.config.views, -1).sum(1)
        sums = problem.work.total(parts | {"gradient of lr": found.lr})
        check_finite(self.name, iteration, sums, lambda: state | self.experts(problem, segments))
        lr, epochs = float(state["log_lr"].exp()), [float(segment.epoch) for segment in segments]
        loss, by_labels = sums["loss"], sums.get("gradient of labels")
        self.update(state, Unrolled(loss, sums["gradient"], by_labels, sums["gradient of lr"]))
        return {"loss": float(loss), "syn_lr": lr, "start_epoch": sum(epochs) / len(epochs)}

    def unroll(
        self, state: State, problem: Problem, segment: Segment, images: Tensor, steps: Sequence[InnerStep]
    ) -> Unrolled:
        """The loss of one segment, with its derivatives by the expanded images and by a."""
        return ENGINES[self.config.unroll](self.inner_run(state, problem, segment, images, steps))

    def inner_run(
        self, state: State, problem: Problem, segment: Segment, images: Tensor, steps: Sequence[InnerStep]
    ) -> InnerRun:
        """The N steps, as `inner_steps` draws them, that are to lead from a segment's start to its target."""
        return InnerRun(
            inner_loss=problem.network.loss,
            outer_loss=self.outer_loss(problem, segment),
            start=segment.start,
            images=images,
            labels=self.labels(state, problem, segment).repeat_interleave(self.config.views, 0),
            lr=state["log_lr"].exp(),
            steps=steps,
        )

    def outer_loss(self, problem: Problem, segment: Segment) -> OuterLoss:  # noqa: ARG002
        """L, as a function of theta_N."""
        return lambda end: normalised_distance(end, segment.start, segment.target)

    def labels(self, state: State, problem: Problem, segment: Segment) -> Tensor:  # noqa: ARG002
        """The labels [n] or [n, classes] of the stored images in an inner run."""
        return state["labels"]

    def update(self, state: State, found: Unrolled) -> None:
        """A step of the images and of log a down the derivatives of the loss, which are those by what is stored."""
        c, lr = self.config, state["log_lr"].exp()
        self.update_images(state, found.images)
        # a = exp(log_lr) stays positive. d/dlog_lr = a d/da, and lr_lr / lr_teacher^2 makes the step of a equal to the
        # published one, lr_lr d/da, where a is at its first value.
        sgd_(state, "log_lr", found.lr * lr, lr=c.lr_lr / c.lr_teacher**2, momentum=c.momentum_lr)
        state["log_lr"].clamp_(*LOG_LR_RANGE)

    def segments(self, problem: Problem, iteration: int) -> list[Segment]:
        """The segments of an iteration: experts and start epochs are drawn uniformly, each for itself."""
        assert problem.experts is not None
        draws, segments = problem.rng("segment", iteration), []
        first, end = self.start_epochs(iteration)
        for _ in range(self.config.experts_per_step):
            expert = int(torch.randint(self.config.num_experts, (), generator=draws))
            t = first + int(torch.randint(end - first, (), generator=draws))
            ends = (problem.experts.snapshot(expert, epoch) for epoch in (t, t + self.config.expert_epochs))
            segments.append(Segment(expert, t, *ends))
        return segments

    def experts(self, problem: Problem, segments: Sequence[Segment]) -> dict[str, Tensor]:
        """All that an iteration had from the experts, in words."""
        assert problem.experts is not None
        return {
            f"expert {each.expert} at epoch {epoch}": problem.experts.snapshot(each.expert, epoch)
            for each in segments
            for epoch in range(each.epoch, each.epoch + self.config.expert_epochs + 1)
        }

    def start_epochs(self, iteration: int) -> tuple[int, int]:  # noqa: ARG002
        """Segments start at an epoch t with first <= t < end."""
        return 0, self.config.max_start_epoch

    def inner_steps(self, n: int, problem: Problem, draws: torch.Generator) -> list[InnerStep]:
        """N mini-batches of n stored images, each with its recorded augmentation."""
        batches = inner_batches(n, self.config.batch_syn, draws)
        steps = []
        for _ in range(self.config.syn_steps):
            index = views_of(next(batches), self.config.views)
            record = problem.augmentation.sample(draws, len(index))
            replay = partial(problem.augmentation.apply, record=record)
            steps.append(InnerStep(index.to(problem.device, non_blocking=True), replay))
        return steps

    def distilled(self, state: State, problem: Problem) -> DistilledSet:
        return replace(super().distilled(state, problem), lr=float(state["log_lr"].exp()))
