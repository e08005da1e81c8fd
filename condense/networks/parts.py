"""What the convolutional networks share."""

from typing import Literal

from torch import nn


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
