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
from torch.func import grad_and_value

from condense.experts import sgd_step
from condense.methods.base import Problem
from condense.methods.matching import ClassBatch, Matching, MatchingConfig
from condense.networks import Network

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class GradientConfig(MatchingConfig):
    """Keys of every gradient-matching method."""

    def passes(self, classes: int, ipc: int) -> float:
        """One pass of the real images; a pass of the synthetic ones, two forward and one backward of twice the size."""
        return classes * (self.batch_real + 3 * self.synthetic_per_class(ipc))


C = TypeVar("C", bound=GradientConfig)


class GradientMatching(Matching[C]):
    """Base of the methods. Each says which `distance` of two gradients it takes."""

    def distance(self, real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
        """Of the gradients by each parameter."""
        raise NotImplementedError

    def class_losses(self, problem: Problem, theta: Tensor, batch: ClassBatch) -> Tensor:
        def one(c: Tensor, real: Tensor, synthetic: Tensor) -> tuple[Tensor, Tensor]:
            """The distance of one class, and its derivative by the synthetic images."""
            target, _ = problem.network.gradient(theta, real, c.expand(len(real)))
            labels = c.expand(len(synthetic))
            gradient, kept = problem.network.loss.gradient(theta, synthetic, labels)
            u, distance = grad_and_value(self._between)(gradient, target, problem.network)
            return distance, problem.network.loss.slope_by_images(theta, u, synthetic, labels, kept)

        # One class after another: a batch of gradients would turn the convolutions' weight gradients into grouped
        # convolutions, which are slow on a CPU for more than a few images.
        with torch.no_grad():
            found = [
                one(*of_class) for of_class in zip(batch.classes, batch.real, batch.synthetic.detach(), strict=True)
            ]
        distances, d_images = (torch.stack(parts) for parts in zip(*found, strict=True))
        s = (batch.synthetic * d_images).flatten(1).sum(1)
        losses: Tensor = distances + s - s.detach()  # the value of D with the derivative of <g_s, u>
        return losses

    def _between(self, synthetic: Tensor, real: Tensor, network: Network) -> Tensor:
        return self.distance(list(network.split(real).values()), list(network.split(synthetic).values()))


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
