"""A network whose derivatives are compiled.

Each function that condensers call (a gradient, a slope, an embedding and its derivative) is traced once for each set of
shapes. What the trace holds are tensor operations alone: the derivatives have been taken, nothing is left to autograd,
and torch.compile turns the list into a few kernels. The numbers are those of `Network`, up to rounding.

Two things make it faster than the fusion of small operations does: images and weights have channels last, as the
convolutions of CPUs want them, and the outputs of the large convolutions, kept by `gradient`, are not computed again by
`slope`.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional as F

from condense.networks.convolution import Tape, replay, taped, written_out
from condense.networks.exact import plain_norms, plain_pools
from condense.networks.loss import InnerLoss, Kept, Slope, in_chunks
from condense.networks.program import DifferentiableProgram, Program
from condense.networks.stateless import Network, Precision


class CompiledNetwork(Network):
    """As `Network`; `gradient`, `embed`, `features` and the derivatives of `loss` are compiled.

    With `precision` "bf16" the convolutions, which are nearly all of the work, round what they are given to bfloat16.
    All else stays in `dtype`: theta, images, normalisation, the loss, and whatever comes out.
    """

    compiled = True

    def __init__(self, spec: str, *, precision: Precision = "fp32", **where: Any) -> None:
        super().__init__(spec, **where)
        self.precision = precision
        for module in (self._module, self._body):
            if module is not None:
                plain_norms(module)
                plain_pools(module)
                written_out(module, torch.bfloat16 if precision == "bf16" else self.dtype)
                _out_of_place(module)
        self.loss = in_chunks(CompiledLoss(self, self._module), self.micro_batch)
        self._gradient = Program("the gradient", self._gradient_and_logits)
        self._embedding = DifferentiableProgram("the embedding", self._embed)
        self._description = DifferentiableProgram("the features", self._features)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """With its channels last, if it has any."""
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    def _gradient_and_logits(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        def loss(point: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(point, x)
            return F.cross_entropy(logits, y), logits

        found: tuple[Tensor, Tensor] = grad(loss, has_aux=True)(theta)
        return found


def _out_of_place(module: nn.Module) -> None:
    """No activation overwrites the output of a convolution, which is kept."""
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]


class CompiledLoss(InnerLoss):
    """The mean cross-entropy of a compiled network. `gradient` keeps the outputs of the large convolutions."""

    def __init__(self, network: CompiledNetwork, module: nn.Module) -> None:
        super().__init__(lambda theta, x, y: F.cross_entropy(network.logits(theta, x), y))
        self._module = module
        self._gradient = Program("the gradient of the inner loss", self._gradient_and_kept)
        self._slope = Program("the derivatives of its slope", self._all_slopes)
        self._slope_by_images = Program("the derivative of its slope by the images", self._images_slope)

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Kept]:
        gradient, *kept = self._gradient(theta, x, y)
        return gradient, tuple(kept)

    def slope(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, kept: Kept = ()) -> Slope:
        return Slope(*self._slope(theta, m, x, y, *kept))

    def slope_by_images(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, kept: Kept = ()) -> Tensor:
        d_x: Tensor = self._slope_by_images(theta, m, x, y, *kept)
        return d_x

    def _gradient_and_kept(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        tape = Tape()
        with torch.enable_grad(), taped(self._module, tape):
            point = theta.detach().requires_grad_()
            loss = self(point, x, y)
            gradient, *d_inputs = torch.autograd.grad(loss, (point, *tape.inputs), materialize_grads=True)
        return gradient, *tape.outputs, *d_inputs

    def _all_slopes(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, *kept: Tensor) -> Slope:
        with self._replayed(kept):
            return super().slope(theta, m, x, y)

    def _images_slope(self, theta: Tensor, m: Tensor, x: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        with self._replayed(kept):
            return super().slope_by_images(theta, m, x, y)

    def _replayed(self, kept: Kept) -> AbstractContextManager[None]:
        half = len(kept) // 2
        return taped(self._module, replay(kept[:half], kept[half:])) if kept else nullcontext()
