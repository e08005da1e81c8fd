"""Functions of tensors that are compiled with their derivatives taken."""

import logging
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

logger = logging.getLogger(__name__)


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
            graph.graph.eliminate_dead_code()  # convolutions whose result was kept
            settle_small(graph.graph)
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


SMALL = 8
"""A tensor is small beside one with so many times its elements."""


@torch.library.custom_op("condense::settled", mutates_args=())
def settled(x: Tensor) -> Tensor:
    """x, which is in memory before anything is computed from it."""
    return x.clone()


@settled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def settle_small(graph: fx.Graph) -> None:
    """Have small tensors computed once, before they meet large ones.

    The compiler would fuse their computation into the loop over the large tensor, and so repeat it for each element: in
    a norm, a root and several quotients, which take longer than all the rest.
    """
    _lower_settled()
    done: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        size = _elements(node)
        if node.target is not torch.ops.aten.expand.default and torch.Tag.pointwise not in getattr(
            node.target, "tags", ()
        ):
            continue
        for small in node.all_input_nodes:
            if not 1 < _elements(small) <= size // SMALL or small.op != "call_function":
                continue
            if small not in done:
                with graph.inserting_after(small):
                    done[small] = graph.call_function(torch.ops.condense.settled.default, (small,))
                done[small].meta["val"] = small.meta["val"]
            node.replace_input_with(small, done[small])


def _elements(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() if isinstance(value, Tensor) else 0


@cache
def _lower_settled() -> None:
    """Compiled, it costs nothing."""
    from torch._inductor.lowering import register_lowering  # loads the compiler, which is 110 MB

    @register_lowering(torch.ops.condense.settled.default, type_promotion_kind=None)
    def _(x: Any) -> Any:
        x.realize()
        return x
