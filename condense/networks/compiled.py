"""A network whose derivatives are compiled.

Each function that condensers call (a gradient, a slope, an embedding and its derivative) is traced once for each set of
shapes. What the trace holds are tensor operations alone: the derivatives have been taken, nothing is left to autograd,
and torch.compile turns the list into a few kernels. The numbers are those of `Network`, up to rounding.

Two things make it faster than the fusion of small operations does: images and weights have channels last, as the
convolutions of CPUs want them, and the outputs of the large convolutions, kept by `gradient`, are not computed again by
`slope`.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from condense.networks.exact import plain_norms
from condense.networks.loss import InnerLoss, Kept, Slope
from condense.networks.stateless import Network

logger = logging.getLogger(__name__)

WORTH_KEEPING = 64
"""Products behind each output of a convolution, from which on keeping it is cheaper than computing it again."""


class Program:
    """A function of tensors, compiled for each set of shapes, strides and types it is called with. Gives no graph.

    `name` says in the log what was compiled. What torch.compile makes it also keeps on disk, for later processes.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name, self._function = name, function
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *tensors: Tensor) -> Any:
        tensors = tuple(tensor.detach() for tensor in tensors)
        kind = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
        with torch.no_grad():
            if kind in self._compiled:
                return self._compiled[kind](*tensors)
            start = time.perf_counter()
            graph = make_fx(lambda *given: self._function(*given), tracing_mode="fake")(*tensors)
            graph.graph.eliminate_dead_code()  # convolutions whose output was kept
            graph.recompile()
            program = self._compiled[kind] = torch.compile(graph, fullgraph=True, dynamic=False)
            result = program(*tensors)
        logger.info(f"compiled {self._name} in {time.perf_counter() - start:.0f} s")
        return result


class DifferentiableProgram:
    """A function of (theta, x) with a derivative by x. Nothing is kept for it: the backward pass computes all anew."""

    def __init__(self, name: str, function: Callable[[Tensor, Tensor], Any]) -> None:
        self._function = function
        self.forward = Program(name, self._leaves)
        self.backward = Program(f"the derivative of {name}", self._pulled_back)
        self._specs: dict[torch.Size, TreeSpec] = {}

    def __call__(self, theta: Tensor, x: Tensor) -> Any:
        assert not theta.requires_grad, "there is no derivative by theta"
        leaves = _Call.apply(self, theta, x)  # type: ignore[no-untyped-call]
        return tree_unflatten(leaves, self._specs[x.shape])

    def _leaves(self, theta: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        leaves, self._specs[x.shape] = tree_flatten(self._function(theta, x))
        return tuple(leaves)

    def _pulled_back(self, theta: Tensor, x: Tensor, *cotangents: Tensor) -> Tensor:
        _, backward = vjp(partial(self._leaves, theta), x)  # type: ignore[misc]
        (d_x,) = backward(cotangents)
        return d_x  # type: ignore[no-any-return]


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: DifferentiableProgram, theta: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        ctx.program = program
        ctx.save_for_backward(theta, x)
        leaves: tuple[Tensor, ...] = program.forward(theta, x)
        return leaves

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.program.backward(*ctx.saved_tensors, *cotangents)


class CompiledNetwork(Network):
    """As `Network`; `gradient`, `embed`, `features` and the derivatives of `loss` are compiled."""

    compiled = True

    def __init__(self, spec: str, **where: Any) -> None:
        super().__init__(spec, **where)
        for module in (self._module, self._body):
            if module is not None:
                plain_norms(module)
                _out_of_place(module)
        self.loss = CompiledLoss(self)
        self._gradient = Program("the gradient", self._gradient_and_logits)
        self._embedding = DifferentiableProgram("the embedding", self._embed)
        self._description = DifferentiableProgram("the features", self._features)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """With its channels last, if it has any."""
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    def embed(self, theta: Tensor, x: Tensor) -> Tensor:
        features: Tensor = self._embedding(theta, x)
        return features

    def features(self, theta: Tensor, x: Tensor) -> tuple[list[Tensor], Tensor]:
        described: tuple[list[Tensor], Tensor] = self._description(theta, x)
        return described

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self._gradient(theta, x, y)
        return found

    def _gradient_and_logits(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        def loss(point: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(point, x)
            return F.cross_entropy(logits, y), logits

        found: tuple[Tensor, Tensor] = grad(loss, has_aux=True)(theta)
        return found

    @contextmanager
    def hooked(self, hook: Callable[[nn.Module, Any, Tensor], Tensor | None]) -> Iterator[None]:
        """`hook` after each convolution that is worth keeping, in the order they run."""
        convolutions = [module for module in self._module.modules() if isinstance(module, nn.Conv2d)]
        large = [module for module in convolutions if module.weight.shape[1:].numel() >= WORTH_KEEPING]
        handles = [module.register_forward_hook(hook) for module in large]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _out_of_place(module: nn.Module) -> None:
    """No activation overwrites the output of a convolution, which is kept."""
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]


class CompiledLoss(InnerLoss):
    """The mean cross-entropy of a compiled network. `gradient` keeps the outputs of the large convolutions."""

    def __init__(self, network: CompiledNetwork) -> None:
        super().__init__(lambda theta, x, y: F.cross_entropy(network.logits(theta, x), y))
        self._network = network
        self._gradient = Program("the gradient of the inner loss", self._gradient_and_kept)
        self._slope = Program("the derivatives of its slope", self._all_slopes)
        self._slope_by_images = Program("the derivative of its slope by the images", self._images_slope)

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Kept]:
        gradient, *kept = self._gradient(theta, x, y)
        return gradient, tuple(kept)

    def slope(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, kept: Kept = ()) -> Slope:
        return Slope(*self._slope(theta, m, x, y, *kept))

    def slope_by_images(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor) -> Tensor:
        d_x: Tensor = self._slope_by_images(theta, m, x, y)
        return d_x

    def _gradient_and_kept(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        def loss(point: Tensor) -> tuple[Tensor, list[Tensor]]:
            kept: list[Tensor] = []
            with self._network.hooked(lambda _module, _inputs, output: kept.append(output)):
                return self(point, x, y), kept

        gradient, kept = grad(loss, has_aux=True)(theta)
        return gradient, *kept

    def _all_slopes(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, *kept: Tensor) -> Slope:
        soft = (y,) if y.is_floating_point() else ()

        def forward(theta: Tensor, x: Tensor, *soft: Tensor) -> Tensor:
            with self._replayed(kept):
                return self._along(theta, m, x, soft[0] if soft else y)

        value, backward = vjp(forward, theta, x, *soft)  # type: ignore[misc]
        d_theta, d_x, *d_y = backward(torch.ones_like(value))
        return Slope(value, d_theta, d_x, d_y[0] if soft else None)

    def _images_slope(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor) -> Tensor:
        d_x: Tensor = grad(lambda x: self._along(theta, m, x, y))(x)
        return d_x

    @contextmanager
    def _replayed(self, kept: Kept) -> Iterator[None]:
        """The large convolutions put out what is kept, if anything is."""
        known = iter(kept)
        if not kept:
            yield
            return
        with self._network.hooked(lambda _module, _inputs, output: _Known.apply(output, next(known))):  # type: ignore[no-untyped-call]
            yield


class _Known(torch.autograd.Function):
    """The value `known` with the derivatives of `output`, which nobody then needs to compute."""

    @staticmethod
    def forward(output: Tensor, known: Tensor) -> Tensor:  # noqa: ARG004
        return known.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return cotangent, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _known: None) -> Tensor:  # noqa: ARG004
        return tangent.clone()
