"""What the convolutional networks share."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

from condense.errors import DataError


def channel_norm(kind: Literal["none", "instance", "group", "batch"], width: int) -> nn.Module:
    """Normalisation of [n, width, h, w] with a learned scale and shift per channel.

    instance: over (h, w) of each image and channel, as GroupNorm with `width` groups; group: 4 groups of channels;
    batch: over (n, h, w) of each channel; none: the identity.
    """
    match kind:
        case "instance":
            return nn.GroupNorm(width, width)
        case "group":
            return nn.GroupNorm(4, width)
        case "batch":
            return nn.BatchNorm2d(width)
        case "none":
            return nn.Identity()


def padded_size(size: int) -> int:
    """Side of the maps after a first convolution with `first_padding`: MNIST's 28 px become 32, others stay."""
    return 32 if size == 28 else size


def first_padding(size: int, kernel: int) -> int:
    """Padding of a first convolution of stride 1 that turns side `size` into `padded_size(size)`."""
    return kernel // 2 + (padded_size(size) - size) // 2


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms in a module, in the order of `modules()`."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def images_per_epoch(module: nn.Module, n: int, batch: int) -> int:
    """How many of n images an epoch in batches trains a module on: all, or with batch norm those but one.

    Batch norm has no variance over one image, so a last batch of one image is left out.

    Raises:
        DataError: a module with batch norm and a single image.
    """
    if n % batch != 1 or not batch_norms(module):
        return n
    if n == 1:
        raise DataError("a network with batch norm cannot be trained on a single image.")
    return n - 1


@contextmanager
def hooked(modules: Iterable[nn.Module], keep: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Inside the block each run of each of the modules calls keep(module, inputs, output)."""
    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
