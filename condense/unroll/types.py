"""The inner training run, and what every engine that differentiates it takes and gives.

The run is heavy-ball SGD from theta_0 with v_0 = 0, for i = 0 .. N-1:

    g_i = d/dtheta L(theta_i, x_i, y_i)        x_i = augment_i(images[index_i])    y_i = labels[index_i]
    v_{i+1} = momentum v_i + g_i
    theta_{i+1} = theta_i - lr v_{i+1}

and the outer loss is a function of theta_N, to which functions of earlier theta_i may be added, the waypoints.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from condense.networks import InnerLoss

OuterLoss = Callable[[Tensor], Tensor]
"""theta_N [P] -> 0-dimensional."""


@dataclass(frozen=True)
class InnerStep:
    """Which rows of the set a step trains on, and its augmentation: the same function at every call."""

    index: Tensor
    augment: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InnerRun:
    """One inner run and the loss of where it ends. None of the tensors is changed, or gains a graph.

    `start` is theta_0 [P]; `images` [n, ch, h, w] and `labels` [n] or [n, classes] are the set; `lr` is 0-dimensional.
    `waypoints` has the loss of theta_i under the number of steps i, 0 < i < N.
    """

    inner_loss: InnerLoss
    outer_loss: OuterLoss
    start: Tensor
    images: Tensor
    labels: Tensor
    lr: Tensor
    steps: Sequence[InnerStep]
    momentum: float = 0.0
    waypoints: Mapping[int, OuterLoss] = field(default_factory=dict)

    @property
    def soft(self) -> bool:
        """Whether the labels are probabilities, which have derivatives."""
        return self.labels.is_floating_point()


@dataclass(frozen=True)
class Unrolled:
    """The outer loss and its derivatives; `labels` is None for hard labels."""

    loss: Tensor
    images: Tensor
    labels: Tensor | None
    lr: Tensor


def average(found: Sequence[Unrolled], over: int) -> Unrolled:
    """The part of some runs on one set in the mean loss of `over` of them, and its derivatives."""

    def part(each: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(each)).mean(0) * (len(found) / over)

    labels = [each.labels for each in found if each.labels is not None]
    return Unrolled(
        part([each.loss for each in found]),
        part([each.images for each in found]),
        part(labels) if labels else None,
        part([each.lr for each in found]),
    )


Engine = Callable[[InnerRun], Unrolled]
"""One way to differentiate the run. All but TESLA's give the same numbers; they differ in memory and time."""
