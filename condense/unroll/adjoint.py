"""The exact derivative of an inner training run, in memory that does not grow with its length.

Forward, keep only the N parameter vectors. Backward, with lambda_N = d outer / d theta_N and m_{N+1} = 0, for
i = N-1 .. 0:

    m_{i+1}      = lambda_{i+1} + momentum m_{i+2}
    S_i          = <g_i, m_{i+1}> = d/de L(theta_i + e m_{i+1}, x_i, y_i) at e = 0
    d outer/dx_i = -lr dS_i/dx_i           d outer/dy_i = -lr dS_i/dy_i           d outer/dlr += -S_i
    lambda_i     = lambda_{i+1} - lr dS_i/dtheta_i + d waypoint_i / d theta_i

S_i is a directional derivative: it is evaluated forward, and one ordinary backward pass of it gives the Hessian product
and both mixed products (reverse over forward), so no backward pass is ever differentiated. m is the momentum buffer of
the adjoint: summed by parts it also gives the derivative of the learning rate, so the velocities need not be kept.

Where the loss hands out layer outputs to keep, those of the last steps are kept, in a fixed amount of memory.

The augmentation is outside the inner loss. It gets one vector-Jacobian product per step, and is replayed, not stored.
"""

import torch
from torch import Tensor

from condense.networks import Kept
from condense.unroll.types import InnerRun, OuterLoss, Unrolled

KEEP_BYTES = 256 * 2**20
"""For all layer outputs that are kept at a time."""


def _trajectory(run: InnerRun) -> tuple[Tensor, dict[int, Kept]]:
    """theta_0 .. theta_N [N + 1, P], and what is kept of steps: of the last ones, where the way back begins.

    Of the largest alone: there may be a short one for the rows that a pass over the set leaves over.
    """
    thetas, velocity = run.start.new_empty(len(run.steps) + 1, len(run.start)), torch.zeros_like(run.start)
    thetas[0] = run.start.detach()
    sizes = [len(step.index) for step in run.steps]
    largest = [i for i, size in enumerate(sizes) if size == max(sizes)]
    kept: dict[int, Kept] = {}
    lr, labels = run.lr.detach(), run.labels.detach()
    for i, step in enumerate(run.steps):
        with torch.no_grad():
            x = step.augment(run.images[step.index])
        gradient, outputs = run.inner_loss.gradient(thetas[i], x, labels[step.index])
        if i == largest[0]:
            kept = _room(outputs, largest)
        if i in kept:
            for place, output in zip(kept[i], outputs, strict=True):
                place.copy_(output)
        velocity = gradient if run.momentum == 0 else run.momentum * velocity + gradient
        torch.sub(thetas[i], lr * velocity, out=thetas[i + 1])
    return thetas, kept


def _room(like: Kept, steps: list[int]) -> dict[int, Kept]:
    """Room for the outputs of the last of these steps, as many as KEEP_BYTES allows.

    In one piece: tensors that stay where they were made, between others that go, would leave holes of twice their size.
    """
    each = sum(tensor.nbytes for tensor in like)
    places = min(KEEP_BYTES // each, len(steps)) if each else 0
    return {i: tuple(map(torch.empty_like, like)) for i in steps[len(steps) - places :]}


def adjoint(run: InnerRun) -> Unrolled:
    """Differentiate the outer loss as above; keeps N + 1 vectors [P], the activations of one step, and KEEP_BYTES."""
    return walk_back(run, curvature=True)


def walk_back(run: InnerRun, *, curvature: bool) -> Unrolled:
    """The equations above; without `curvature` no dS_i/dtheta_i, as if the g_i at theta_i were those of a constant."""
    images, labels, lr = run.images.detach(), run.labels.detach(), run.lr.detach()
    thetas, kept = _trajectory(run)

    loss, lam = _value_and_gradient(run.outer_loss, thetas[-1])
    d_images, d_lr = torch.zeros_like(images), torch.zeros_like(lr)
    d_labels = torch.zeros_like(labels) if run.soft else None
    m = torch.zeros_like(lam)
    for i, step in reversed(list(enumerate(run.steps))):
        m = lam if run.momentum == 0 else lam + run.momentum * m
        rows = images[step.index].requires_grad_()
        augmented = step.augment(rows)
        theta = thetas[i].clone()  # forward mode takes no view
        s = run.inner_loss.slope(theta, m, augmented.detach(), labels[step.index], kept.pop(i, ()))

        (d_rows,) = torch.autograd.grad(augmented, rows, -lr * s.x)
        d_images.index_add_(0, step.index, d_rows)
        if d_labels is not None:
            assert s.y is not None
            d_labels.index_add_(0, step.index, -lr * s.y)
        d_lr -= s.value
        if curvature:
            lam = lam - lr * s.theta
        if i in run.waypoints:
            passed, gradient = _value_and_gradient(run.waypoints[i], theta)
            loss, lam = loss + passed, lam + gradient
    return Unrolled(loss, d_images, d_labels, d_lr)


def _value_and_gradient(loss: OuterLoss, theta: Tensor) -> tuple[Tensor, Tensor]:
    point = theta.detach().requires_grad_()
    value = loss(point)
    (gradient,) = torch.autograd.grad(value, point)
    return value.detach(), gradient
