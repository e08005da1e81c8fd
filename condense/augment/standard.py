"""Augmentations that no method is distilled with: how a set fares under them says how much it owes to its own.

Evaluation only. Every image gets parameters of its own, u uniform on [0, 1); everything acts in the preprocessed space,
so that zero is the mean colour of the data. `mirrored` says whether a left-right flip keeps the class.
"""

import math

import torch
from torch import Tensor

from condense.augment.dsa import color, crop, flip, warp

AREA = 0.08  # smallest part of the image that a resized crop shows; the largest is all of it
ASPECT = 4 / 3  # largest width of a resized crop over its height; the smallest is the inverse


def crop_flip(x: Tensor, generator: torch.Generator, *, mirrored: bool) -> Tensor:
    """Shift x [n, ch, s, s] by up to an eighth of the side, zeros coming in; mirror half of the images."""
    u = torch.rand(len(x), 3, generator=generator).to(x.device)
    x = crop(x, u)
    return flip(x, u[:, 2:]) if mirrored else x


def standard(x: Tensor, generator: torch.Generator, *, mirrored: bool) -> Tensor:
    """The ImageNet recipe on x [n, ch, s, s]: random resized crop, mirror half of the images, colour jitter.

    The jitter is DSA's `color`: brightness, saturation, contrast.
    """
    u = torch.rand(len(x), 8, generator=generator).to(x.device)
    x = resized_crop(x, u)
    x = flip(x, u[:, 4:]) if mirrored else x
    return color(x, u[:, 5:])


def resized_crop(x: Tensor, u: Tensor) -> Tensor:
    """A part of each image, w by h of its sides and anywhere in it, enlarged to the whole, bilinearly.

    w = sqrt(a r) and h = sqrt(a / r), at most 1, with the area a uniform on [0.08, 1) and log r uniform on
    [log 3/4, log 4/3): the ranges of torchvision's RandomResizedCrop, which redraws what we cut down to 1.
    """
    area = AREA + (1 - AREA) * u[:, 0]
    aspect = torch.exp((2 * u[:, 1] - 1) * math.log(ASPECT))
    width, height = ((area * ratio).sqrt().clamp(max=1) for ratio in (aspect, 1 / aspect))
    right, down = ((1 - side) * (2 * u[:, k] - 1) for side, k in ((width, 2), (height, 3)))
    zero = torch.zeros_like(width)
    return warp(x, [[width, zero, right], [zero, height, down]])
