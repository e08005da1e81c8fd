"""The exact derivative of an inner training run, in memory that does not grow with its length.

Forward, keep only the N parameter vectors. Backward, with lambda_N = d outer / d theta_N and m_{N+1} = 0, for
i = N-1 .. 0:

    m_{i+1}      = lambda_{i+1} + momentum m_{i+2}
    S_i          = <g_i, m_{i+1}> = d/de L(theta_i + e m_{i+1}, x_i, y_i) at e = 0
    d outer/dx_i = -lr dS_i/dx_i           d outer/dy_i = -lr dS_i/dy_i           d outer/dlr += -S_i
    lambda_i     = lambda_{i+1} - lr dS_i/dtheta_i

S_i is a directional derivative: it is evaluated forward, and one ordinary backward pass of it gives the Hessian product
and both mixed products (reverse over forward), so no backward pass is ever differentiated. m is the momentum buffer of
the adjoint: summed by parts it also gives the derivative of the learning rate, so the velocities need not be kept.

The augmentation is outside the inner loss. It gets one vector-Jacobian product per step, and is replayed, not stored.
"""

import torch
from torch import Tensor
from torch.func import jvp

from condense.unroll.types import InnerRun, Unrolled


def _trajectory(run: InnerRun) -> list[Tensor]:
    """theta_0 .. theta_N."""
    thetas, velocity = [run.start.detach()], torch.zeros_like(run.start)
    lr = run.lr.detach()
    for step in run.steps:
        with torch.no_grad():
            x = step.augment(run.images[step.index])
        theta = thetas[-1].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(run.inner_loss(theta, x, run.labels.detach()[step.index]), theta)
        velocity = gradient if run.momentum == 0 else run.momentum * velocity + gradient
        thetas.append(thetas[-1] - lr * velocity)
    return thetas


def adjoint(run: InnerRun) -> Unrolled:
    """Differentiate the outer loss as above; keeps N + 1 vectors [P] and the activations of one step."""
    images, labels, lr = run.images.detach(), run.labels.detach(), run.lr.detach()
    thetas = _trajectory(run)

    end = thetas.pop().requires_grad_()
    loss = run.outer_loss(end)
    (lam,) = torch.autograd.grad(loss, end)

    d_images, d_lr = torch.zeros_like(images), torch.zeros_like(lr)
    d_labels = torch.zeros_like(labels) if run.soft else None
    m = torch.zeros_like(lam)
    for step in reversed(run.steps):
        m = lam if run.momentum == 0 else lam + run.momentum * m
        theta = thetas.pop().requires_grad_()
        rows = images[step.index].requires_grad_()
        augmented = step.augment(rows)
        x = augmented.detach().requires_grad_()
        y = labels[step.index].requires_grad_(run.soft)

        s: Tensor = jvp(lambda point, x=x, y=y: run.inner_loss(point, x, y), (theta,), (m,))[1]
        d_theta, d_x, *d_y = torch.autograd.grad(s, (theta, x, y) if run.soft else (theta, x))

        (d_rows,) = torch.autograd.grad(augmented, rows, -lr * d_x)
        d_images.index_add_(0, step.index, d_rows)
        if d_labels is not None:
            d_labels.index_add_(0, step.index, -lr * d_y[0])
        d_lr -= s.detach()
        lam = lam - lr * d_theta
    return Unrolled(loss.detach(), d_images, d_labels, d_lr)
