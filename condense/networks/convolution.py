"""A convolution whose derivatives are written out, so that what is known of them need not be computed.

For y = x * w + b with the cotangent g of y, the tangents x', w', b' and the cotangent of a tangent:

    forward      y' = x' * w + x * w' + b'                     a missing tangent costs nothing
    backward     dx = g * w turned round     dw = x correlated with g     db = sum of g

A pass that computes dL/dtheta leaves y and dL/dx of each convolution behind. The derivatives of the slope
S = <dL/dtheta, m> at the same point meet both again: y is the value there, and dL/dx is the cotangent of x', because S
is linear in x' with the factors of L's backward pass. With both known, two of its eight convolutions are left out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORTH_KEEPING = 64
"""Products behind each output of a convolution, from which on keeping it is cheaper than computing it again."""
FEW_CHANNELS = 4
"""Up to so many channels, as images have, the derivative by x is faster as a matrix product: the kernels of CPUs
compute 8 or 16 channels at a time."""


class Geometry(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass
class Tape:
    """What one pass leaves behind of each large convolution: x, by which it can be differentiated, and y."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, convolve: Callable[..., Tensor]) -> Tensor:
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()  # used by this convolution alone
        y = convolve(x)
        self.inputs.append(x)
        self.outputs.append(y.detach())
        return y


class Convolution(nn.Module):
    """nn.Conv2d with zeros around the image, computed in `dtype`; the output has the type of x again.

    `tape`, if there is one, is given x and the convolution to apply.
    """

    def __init__(self, like: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight, self.bias = like.weight, like.bias
        assert isinstance(like.padding, tuple) and like.padding_mode == "zeros"
        self.geometry = Geometry(like.stride, like.padding, like.dilation, like.groups)
        self.tape: Callable[[Tensor, Callable[..., Tensor]], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(self.dtype), None if self.bias is None else self.bias.to(self.dtype)

        def convolve(x: Tensor, y: Tensor | None = None, d_x: Tensor | None = None) -> Tensor:
            output: Tensor = _Convolve.apply(x, weight, bias, y, d_x, self.geometry)  # type: ignore[no-untyped-call]
            return output

        narrow = x.to(self.dtype)
        return (convolve(narrow) if self.tape is None else self.tape(narrow, convolve)).to(x.dtype)


def written_out(module: nn.Module, dtype: torch.dtype) -> None:
    """Put a `Convolution` that computes in `dtype` in the place of each nn.Conv2d that one can stand for."""
    for path, old in list(module.named_modules()):
        if type(old) is nn.Conv2d and old.padding_mode == "zeros" and isinstance(old.padding, tuple):
            module.set_submodule(path, Convolution(old, dtype))


@contextmanager
def taped(module: nn.Module, tape: Callable[[Tensor, Callable[..., Tensor]], Tensor]) -> Iterator[None]:
    """`tape` in the large convolutions but the first, whose x is images and has no tangent."""
    convolutions = [part for part in module.modules() if isinstance(part, Convolution)]
    large = [part for part in convolutions[1:] if part.weight.shape[1:].numel() >= WORTH_KEEPING]
    for part in large:
        part.tape = tape
    try:
        yield
    finally:
        for part in large:
            part.tape = None


def replay(outputs: Sequence[Tensor], d_inputs: Sequence[Tensor]) -> Callable[[Tensor, Callable[..., Tensor]], Tensor]:
    """A tape of what an earlier pass left behind."""
    known = iter(zip(outputs, d_inputs, strict=True))
    return lambda x, convolve: convolve(x, *next(known))


class _Convolve(torch.autograd.Function):
    """y, and dL/dx for the cotangent of x', are taken as given if they are."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor | None, y: Tensor | None, d_x: Tensor | None, at: Geometry) -> Tensor:  # noqa: ARG004
        return torch.conv2d(x, w, b, *at) if y is None else y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, w, _, _, d_x, ctx.geometry = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w, d_x)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        by_x, *by_parameters = ctx.needs_input_grad[:3]
        # Two calls, so that a trace can drop the first if nobody uses it.
        d_x = _by_input(g, x, w, ctx.geometry) if by_x else None
        d_w, d_b = _backward(g, x, w, ctx.geometry, False, *by_parameters)[1:] if any(by_parameters) else (None, None)
        return d_x, d_w, d_b, None, None, None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, w_t: Tensor | None, b_t: Tensor | None, *_: None) -> Tensor | None:
        x, w, d_x = ctx.saved_tensors
        by_x = by_w = None
        if x_t is not None:
            x_t = x_t if d_x is None else _Pulled.apply(x_t, d_x)  # type: ignore[no-untyped-call]
            by_x = _Convolve.apply(x_t, w, None, None, None, ctx.geometry)  # type: ignore[no-untyped-call]
        if w_t is not None:
            by_w = _Convolve.apply(x, w_t, b_t, None, None, ctx.geometry)  # type: ignore[no-untyped-call]
        return by_w if by_x is None else by_x if by_w is None else by_x + by_w


class _Pulled(torch.autograd.Function):
    """x, whose cotangent is known."""

    @staticmethod
    def forward(x: Tensor, d_x: Tensor) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return ctx.saved_tensors[0], None


def _backward(g: Tensor, x: Tensor, w: Tensor, at: Geometry, *mask: bool) -> tuple[Tensor | None, ...]:
    derivatives: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        g, x, w, [w.shape[0]], at.stride, at.padding, at.dilation, False, [0, 0], at.groups, mask
    )
    return derivatives


def _by_input(g: Tensor, x: Tensor, w: Tensor, at: Geometry) -> Tensor:
    """dx for the cotangent g of y."""
    if w.shape[1] > FEW_CHANNELS or at != Geometry((1, 1), at.padding, (1, 1), 1):
        d_x = _backward(g, x, w, at, True, False, False)[0]
        assert d_x is not None
        return d_x
    # Each position of y adds to the pixels below its window: all products at once, then the windows on one another.
    (n, _, high, wide), (_, channels, rows, columns) = g.shape, w.shape
    products = g.permute(0, 2, 3, 1).reshape(-1, g.shape[1]) @ w.permute(0, 2, 3, 1).reshape(w.shape[0], -1)
    windows = products.view(n, high, wide, rows, columns, channels)
    total: Tensor | None = None
    for i in range(rows):
        for j in range(columns):
            top, left = i - at.padding[0], j - at.padding[1]
            place = (0, 0, left, x.shape[3] - wide - left, top, x.shape[2] - high - top)
            shifted = F.pad(windows[:, :, :, i, j], place)
            total = shifted if total is None else total + shifted
    assert total is not None
    return total.permute(0, 3, 1, 2)
