"""A loss of a network's parameters, and the two derivatives of it that condensers need."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

Kept = tuple[Tensor, ...]
"""Outputs of layers at some theta, x, y, that need not be computed again there."""


class Slope(NamedTuple):
    """S = d/de L(theta + e m, x, y) at e = 0, which is <dL/dtheta, m>, and dS/dtheta, dS/dx, dS/dy.

    `y` is None for labels that are integers.
    """

    value: Tensor
    theta: Tensor
    x: Tensor
    y: Tensor | None


class InnerLoss:
    """L(theta [P], x [b, ch, h, w], y [b] int64 or [b, classes] probabilities) -> 0-dimensional."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self._function = function

    def __call__(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self._function(theta, x, y)

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Kept]:
        """dL/dtheta [P], and what `slope` at the same theta, x, y can use again. Gives no graph."""
        with torch.enable_grad():
            point = theta.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self(point, x.detach(), y.detach()), point)
        return gradient, ()

    def slope(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, kept: Kept = ()) -> Slope:  # noqa: ARG002
        """S along m [P] and its derivatives, which are a Hessian product and both mixed products. Gives no graph.

        S is evaluated forward, and one ordinary backward pass of it gives all three (reverse over forward): no backward
        pass is differentiated.
        """
        with torch.enable_grad():
            theta, x = theta.detach().requires_grad_(), x.detach().requires_grad_()
            y = y.detach().requires_grad_(y.is_floating_point())
            value = self._along(theta, m, x, y)
            d_theta, d_x, *d_y = torch.autograd.grad(value, (theta, x, y) if y.requires_grad else (theta, x))
        return Slope(value.detach(), d_theta, d_x, d_y[0] if d_y else None)

    def slope_by_images(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, kept: Kept = ()) -> Tensor:  # noqa: ARG002
        """dS/dx alone."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (d_x,) = torch.autograd.grad(self._along(theta.detach(), m, x, y.detach()), x)
        return d_x

    def _along(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = jvp(lambda point: self(point, x, y), (theta,), (m.detach(),))[1]
        return value


def chunks(size: int, x: Tensor, y: Tensor) -> Iterator[tuple[float, tuple[Tensor, Tensor]]]:
    """The images and labels, `size` at a time, after the share that they are of all."""
    for part in zip(x.split(size), y.split(size), strict=True):
        yield len(part[0]) / len(x), part


class ChunkedLoss(InnerLoss):
    """A mean over images, `size` of them at a time: the same numbers, up to rounding, in the memory of one chunk.

    With b_c of b images in chunk c, L = sum over c of b_c/b L_c; so are S and the derivatives by theta, and those by x
    and y are b_c/b times the chunk's. Nothing is kept of a batch that is split: splitting is to save that memory.
    """

    def __init__(self, whole: InnerLoss, size: int) -> None:
        super().__init__(self._mean)
        self._whole, self._size = whole, size

    def _mean(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([share * self._whole(theta, *part) for share, part in chunks(self._size, x, y)]).sum()

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Kept]:
        if len(x) <= self._size:
            return self._whole.gradient(theta, x, y)
        gradient = torch.zeros_like(theta)
        for share, part in chunks(self._size, x, y):
            gradient.add_(self._whole.gradient(theta, *part)[0], alpha=share)
        return gradient, ()

    def slope(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, kept: Kept = ()) -> Slope:
        if len(x) <= self._size:
            return self._whole.slope(theta, m, x, y, kept)
        value, d_theta = theta.new_zeros(()), torch.zeros_like(theta)
        d_x: list[Tensor] = []
        d_y: list[Tensor] = []
        for share, part in chunks(self._size, x, y):
            s = self._whole.slope(theta, m, *part)
            value.add_(s.value, alpha=share)
            d_theta.add_(s.theta, alpha=share)
            d_x.append(share * s.x)
            d_y += [] if s.y is None else [share * s.y]
        return Slope(value, d_theta, torch.cat(d_x), torch.cat(d_y) if d_y else None)

    def slope_by_images(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, kept: Kept = ()) -> Tensor:
        if len(x) <= self._size:
            return self._whole.slope_by_images(theta, m, x, y, kept)
        parts = chunks(self._size, x, y)
        return torch.cat([share * self._whole.slope_by_images(theta, m, *part) for share, part in parts])


def in_chunks(loss: InnerLoss, size: int | None) -> InnerLoss:
    """The loss, `size` images at a time if there is one."""
    return loss if size is None else ChunkedLoss(loss, size)
