"""What the gradient-matching methods share: the gradients of each class, and the exact derivative of their distance.

With g_r, g_s the gradients of the mean cross-entropy of a class's real and synthetic images by theta,

    dD(g_r, g_s)/dx_s = d<g_s, u>/dx_s,  u = dD/dg_s held fixed,  <g_s, u> = d/de CE(theta + e u; x_s) at e = 0.

The directional derivative is evaluated forward, and one ordinary backward pass gives its derivative by the images
(reverse over forward): no backward pass is differentiated, and nothing is spent on the derivative by theta.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from condense.experts import sgd_step
from condense.methods.base import Problem, Work
from condense.methods.matching import ClassBatch, Matching, MatchingConfig

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class GradientConfig(MatchingConfig):
    """Keys of every gradient-matching method."""

    def work(self, classes: int, ipc: int) -> Sequence[Work]:
        """One pass of the real images; a pass of the synthetic ones, two forward and one backward of twice the size."""
        together = min(self.class_batch or classes, classes)
        return (
            Work(self.batch_real, classes),
            Work(self.synthetic_per_class(ipc), 3 * classes, vectors=4 + 3 * together, graphs=2),
        )


C = TypeVar("C", bound=GradientConfig)


class GradientMatching(Matching[C]):
    """Base of the methods. Each says which `distance` of two gradients it takes."""

    def distance(self, real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
        """Of the gradients by each parameter."""
        raise NotImplementedError

    def class_losses(self, problem: Problem, theta: Tensor, batch: ClassBatch) -> Tensor:
        split = problem.network.split

        def gradient(x: Tensor, c: Tensor) -> Tensor:
            return problem.network.gradient(theta, x, c.expand(len(x)))[0]

        def slope_by_images(x: Tensor, c: Tensor, u: Tensor) -> Tensor:
            return problem.network.loss.slope_by_images(theta, u, x, c.expand(len(x)))

        def distance(synthetic: Tensor, real: Tensor) -> Tensor:
            return self.distance(list(split(real).values()), list(split(synthetic).values()))

        with torch.no_grad():
            images = batch.synthetic.detach()
            real = by_class(gradient, batch.real, batch.classes)
            synthetic = by_class(gradient, images, batch.classes)
            u, distances = vmap(grad_and_value(distance))(synthetic, real)
            d_images = by_class(slope_by_images, images, batch.classes, u)
        s = (batch.synthetic * d_images).flatten(1).sum(1)
        losses: Tensor = distances + s - s.detach()  # the value of D with the derivative of <g_s, u>
        return losses


def by_class(function: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> Tensor:
    """function(x[c], ...) of each class, stacked.

    One class after another: a batch of gradients would turn the convolutions' weight gradients into grouped
    convolutions, which are slow on a CPU for more than a few images.
    """
    return torch.stack([function(*arguments) for arguments in zip(x, *rest, strict=True)])


def train_step(
    problem: Problem,
    theta: Tensor,
    velocity: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """theta and velocity [P] after one step of SGD on the mean cross-entropy of x with labels or probabilities y."""
    gradient, _ = problem.network.gradient(theta, x, y)
    return sgd_step(theta, gradient, velocity, lr=lr, momentum=momentum, weight_decay=weight_decay)
