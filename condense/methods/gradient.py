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
from torch.func import grad, grad_and_value, jvp, vmap

from condense.experts import sgd_step
from condense.methods.base import Problem, Work
from condense.methods.matching import ClassBatch, Matching, MatchingConfig

BATCHED = 32
"""Up to so many images of a class all classes are one vmap; beyond, a loop over the classes is faster (measured on two
CPU cores: 1.9 times slower at 1 image, equal at 64, 2.2 times faster at 256), since the convolutions' weight gradients
become grouped convolutions. Not measured on a GPU."""

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class GradientConfig(MatchingConfig):
    """Keys of every gradient-matching method."""

    def work(self, classes: int, ipc: int) -> Sequence[Work]:
        """One pass of the real images; a pass of the synthetic ones, two forward and one backward of twice the size."""
        together = min(self.class_batch or classes, classes)
        chunks = classes / together
        at_once = together if self.batch_real <= BATCHED else 1
        return (
            Work(at_once * self.batch_real, classes / at_once),
            Work(together * self.synthetic_per_class(ipc), 3 * chunks, vectors=4 + 3 * together, graphs=2),
        )


C = TypeVar("C", bound=GradientConfig)


class GradientMatching(Matching[C]):
    """Base of the methods. Each says which `distance` of two gradients it takes."""

    def distance(self, real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
        """Of the gradients by each parameter."""
        raise NotImplementedError

    def class_losses(self, problem: Problem, theta: Tensor, batch: ClassBatch) -> Tensor:
        def gradient(x: Tensor, c: Tensor) -> Tensor:
            g: Tensor = grad(problem.inner_loss)(theta, x, c.expand(len(x)))
            return g

        def distance(synthetic: Tensor, real: Tensor) -> Tensor:
            split = problem.network.split
            return self.distance(list(split(real).values()), list(split(synthetic).values()))

        def slope(x: Tensor, c: Tensor, u: Tensor) -> Tensor:
            s: Tensor = jvp(lambda point: problem.inner_loss(point, x, c.expand(len(x))), (theta,), (u,))[1]
            return s

        with torch.no_grad():
            real = by_class(gradient, batch.real, batch.classes)
            synthetic = by_class(gradient, batch.synthetic, batch.classes)
            u, distances = vmap(grad_and_value(distance))(synthetic, real)
        s = by_class(slope, batch.synthetic, batch.classes, u)
        losses: Tensor = distances + s - s.detach()  # the value of D with the derivative of <g_s, u>
        return losses


def by_class(function: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> Tensor:
    """function(x[c], ...) of each class, stacked."""
    if x.shape[1] <= BATCHED:
        results: Tensor = vmap(function)(x, *rest)
        return results
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
