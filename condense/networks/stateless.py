"""A network as a function of one flat parameter vector."""

import copy
from collections.abc import Callable
from functools import cached_property, partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from condense import rng
from condense.errors import ConfigError
from condense.networks.exact import BatchNorm, stateless
from condense.networks.loss import InnerLoss, chunks, in_chunks
from condense.networks.parts import hooked
from condense.networks.registry import canonical, create

AT_ONCE = 256
"""Images that `by_group` puts into one batch, if a single group has no more."""
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid)
Out = TypeVar("Out")
Precision = Literal["fp32", "bf16"]


class Network:
    """f(theta, x): a network without state of its own.

    theta [P] holds all parameters, flattened and joined in the order of `module.parameters()`; images are
    x [n, channels, size, size] and logits [n, classes]. The function is the same in training and evaluation: batch
    normalisation always uses the statistics of the batch at hand (there are no running ones), and dropout is off.

    It can be differentiated in every mode, twice, and compiled. Of torchvision's models, vit_* have no forward-mode
    derivative and mobilenet_v3_* no second one; torch raises an error there.

    Args:
        spec: a spec string, see `create`.
        device, dtype: where theta and x are, and their floating type.
        micro_batch: images that the network works on at a time, at most, whatever it is given: the same numbers up to
            rounding, in less memory. None: all that it is given.

    Raises:
        ConfigError: as `create` does, and for a `micro_batch` where the images of a batch see one another.
    """

    compiled = False
    precision: Precision = "fp32"

    def __init__(
        self,
        spec: str,
        *,
        channels: int,
        size: int,
        classes: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        micro_batch: int | None = None,
    ) -> None:
        self.name = canonical(spec, channels=channels, size=size, classes=classes)
        self.channels, self.size, self.classes = channels, size, classes
        self.device, self.dtype = torch.device(device), dtype
        with rng.isolated(0, "network"):  # these weights are never used, but drawing them must not be noticed either
            module = self._create()
        self._module = stateless(module).to(self.device, dtype).requires_grad_(False)
        self._shapes = {name: p.shape for name, p in self._module.named_parameters()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        self._body, self._body_names = _headless(self._module, classes)
        self._activations = _activations(self._body) if self._body is not None else []
        self.images_meet = any(isinstance(module, BatchNorm) for module in self._module.modules())
        if micro_batch is not None and self.images_meet:
            raise ConfigError(
                f"micro_batch = {micro_batch}: network {self.name!r} has batch norm, which needs all images of a batch "
                "at once. Leave micro_batch out, or choose another norm, such as norm=instance"
            )
        self.micro_batch = micro_batch
        self.loss = in_chunks(InnerLoss(lambda theta, x, y: F.cross_entropy(self.logits(theta, x), y)), micro_batch)
        # What follows sees a micro-batch at most.
        self._gradient: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = self._gradient_and_logits
        self._embedding: Callable[[Tensor, Tensor], Tensor] = self._embed
        self._description: Callable[[Tensor, Tensor], tuple[list[Tensor], Tensor]] = self._features

    @property
    def num_parameters(self) -> int:
        """P, the length of theta."""
        return sum(self._sizes)

    @property
    def has_embedding(self) -> bool:
        """Whether `embed` works: the network ends in a Linear layer."""
        return self._body is not None

    @cached_property
    def embedding_size(self) -> int:
        """d, the features that `embed` gives for each image; found by embedding two. Raises as `embed` does."""
        theta = torch.zeros(self.num_parameters, device=self.device, dtype=self.dtype)
        images = torch.zeros(2, self.channels, self.size, self.size, device=self.device, dtype=self.dtype)
        return self.embed(theta, images).shape[1]

    def init(self, seed: int, stream: str, index: int = 0) -> Tensor:
        """theta [P] as a freshly built network has it, drawn at this address whatever the device."""
        with rng.isolated(seed, stream, index):
            module = self._create()
        return parameters_to_vector(module.parameters()).detach().to(self.device, self.dtype)

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """The parameters by name, as views into theta [P]."""
        parts = theta.split_with_sizes(self._sizes)
        return {name: part.view(shape) for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)}

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Logits [n, classes] of images x [n, channels, size, size]."""
        return self._in_chunks(partial(self._logits, theta), x)

    def _logits(self, theta: Tensor, x: Tensor) -> Tensor:
        weights = {name: self.laid_out(weight) for name, weight in self.split(theta).items()}
        logits: Tensor = functional_call(self._module, weights, (self.laid_out(x),))
        return logits

    def laid_out(self, tensor: Tensor) -> Tensor:
        """Images or a weight in the memory format that the network computes in."""
        return tensor

    def embed(self, theta: Tensor, x: Tensor) -> Tensor:
        """The input [n, d] of the classifier, the last Linear layer, for images x [n, channels, size, size].

        Raises:
            ConfigError: the network does not end in a Linear layer.
        """
        return self._in_chunks(partial(self._embedding, theta), x)

    def _embed(self, theta: Tensor, x: Tensor) -> Tensor:
        if self._body is None:
            raise ConfigError(
                f"network {self.name!r} has no embedding: it does not end in a Linear layer. "
                "Choose another network for methods that compare features."
            )
        parameters = self.split(theta)
        weights = {name: self.laid_out(parameters[name]) for name in self._body_names}
        features: Tensor = functional_call(self._body, weights, (self.laid_out(x),))
        return features

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient [P] of the mean cross-entropy of x by theta, and the logits; y int64 [n] or [n, classes]."""
        if self.micro_batch is None or len(x) <= self.micro_batch:
            return self._gradient(theta, x, y)
        gradient, logits = torch.zeros_like(theta), []
        for share, part in chunks(self.micro_batch, x, y):
            part_gradient, part_logits = self._gradient(theta, *part)
            gradient.add_(part_gradient, alpha=share)
            logits.append(part_logits)
        return gradient, torch.cat(logits)

    def _gradient_and_logits(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            point = theta.detach().requires_grad_()
            logits = self.logits(point, x)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), point)
        return gradient, logits.detach()

    def features(self, theta: Tensor, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps [n, c, h, w] that each activation puts out, in the order they run, and the embedding [n, d].

        Only activations after a convolution, and only maps of more than one position: after a Linear layer the channels
        are last, and what has one position is most often the gate of a squeeze-and-excitation. A network without such
        activations, or that calls functions in their place, has no maps.

        Raises:
            ConfigError: as `embed`.
        """
        return self._in_chunks(partial(self._description, theta), x)

    def _features(self, theta: Tensor, x: Tensor) -> tuple[list[Tensor], Tensor]:
        maps: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if output.shape[2:].numel() > 1:
                maps.append(output)

        with hooked(self._activations, keep):
            embedding = self._embed(theta, x)
        return maps, embedding

    def by_group(self, function: Callable[[Tensor], Out], x: Tensor) -> Out:
        """function(x[g]) for each group of x [groups, n, ...]; every result gets the groups in front.

        `function` maps images [n, ...] to tensors [n, ...] by way of this network. Where no image sees another, small
        groups share a batch, and a large one may be split; batch normalisation keeps to its group.
        """
        n = x.shape[1]
        together = n if self.images_meet else n * max(1, AT_ONCE // n)
        size = min(together, self.micro_batch or together)
        parts = self._in_chunks(function, x.flatten(0, 1), size)
        found: Out = tree_map(lambda out: out.unflatten(0, x.shape[:2]), parts)
        return found

    def _in_chunks(self, function: Callable[[Tensor], Out], x: Tensor, size: int | None = None) -> Out:
        """function(x), which maps images [n, ...] to tensors [n, ...], for `size` images at a time, or `micro_batch`.

        With a micro_batch only x and the results are kept for the backward pass, which computes all else again.
        """
        size = size or self.micro_batch or len(x)
        if len(x) <= size:
            return function(x)
        once = function if self.micro_batch is None else partial(checkpoint, function, use_reentrant=False)
        whole: Out = tree_map(lambda *tensors: torch.cat(tensors), *(once(chunk) for chunk in x.split(size)))
        return whole

    def _create(self) -> nn.Module:
        return create(self.name, channels=self.channels, size=self.size, classes=self.classes)


def _headless(module: nn.Module, classes: int) -> tuple[nn.Module | None, list[str]]:
    """A copy whose last Linear layer is the identity, and its parameter names; None if that is not the classifier."""
    linear = [(path, m) for path, m in module.named_modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1][1].out_features != classes:
        return None, []
    body = copy.deepcopy(module)
    body.set_submodule(linear[-1][0], nn.Identity())
    return body, [name for name, _ in body.named_parameters()]


def _activations(body: nn.Module) -> list[nn.Module]:
    """The activations whose nearest layer with weights before them, in the order of `modules()`, is a convolution."""
    found: list[nn.Module] = []
    after_convolution = False
    for module in body.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            after_convolution = isinstance(module, nn.Conv2d)
        elif after_convolution and isinstance(module, ACTIVATIONS):
            found.append(module)
    return found
