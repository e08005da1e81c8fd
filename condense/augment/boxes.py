"""Parts of images, cut out and brought to a size: as whole numbers that can be drawn once and kept.

A box is (top, left, height, width) in pixels. It may reach over the border: what is outside is zero, the mean colour of
preprocessed images.
"""

import math

import torch
from torch import Tensor

ASPECT = 4 / 3
"""Largest ratio of the sides of a box."""
TRIES = 10


def draw_boxes(
    count: int, size: int, draws: torch.Generator, *, smallest: float, largest: float = 1.0, aspect: float = ASPECT
) -> Tensor:
    """Boxes int64 [count, 4] inside images of side `size`, drawn as torchvision's RandomResizedCrop draws them.

    The area is uniform on [smallest, largest) of the image's, the logarithm of width / height uniform on
    [-log aspect, log aspect). What does not fit into the image is drawn again; the whole image stands for what has not
    fitted `TRIES` times, as for an area of 1.
    """
    u = torch.rand(count, TRIES, 4, generator=draws, dtype=torch.float64)
    area = size**2 * (smallest + (largest - smallest) * u[..., 0])
    ratio = torch.exp((2 * u[..., 1] - 1) * math.log(aspect))
    height, width = ((area * r).sqrt().round() for r in (1 / ratio, ratio))
    fits = (height >= 1) & (width >= 1) & (height <= size) & (width <= size) & (area < size**2)
    top, left = ((u[..., k] * (size - side + 1)).floor() for k, side in ((2, height), (3, width)))
    tries = torch.stack([top, left, height, width], -1).long()
    whole = torch.tensor([0, 0, size, size])
    first = tries[torch.arange(count), fits.int().argmax(1)]
    return torch.where(fits.any(1, keepdim=True), first, whole)


def draw_shifts(count: int, size: int, draws: torch.Generator, *, most: int) -> Tensor:
    """Boxes int64 [count, 4] of the whole image's size, shifted by -most..most pixels either way."""
    corners = torch.randint(-most, most + 1, (count, 2), generator=draws)
    return torch.cat([corners, torch.full((count, 2), size)], 1)


def cut(x: Tensor, boxes: Tensor, mirrored: Tensor | None = None, size: int | None = None) -> Tensor:
    """The box [n or 1, 4] of each image x [n, ch, s, s], brought to side `size` (default s).

    Bilinear between centres of pixels, and with a wider triangle where it shrinks, as PIL does it: no pixel outside the
    box has a part in it. Where `mirrored` (bool [n or 1]) the result is a left-right mirror image. A box of the whole
    image gives back its bits.
    """
    side = x.shape[-1]
    boxes = boxes.to(x.device, torch.float64)
    rows, columns = (_interpolation(boxes[:, k], boxes[:, k + 2], side, size or side) for k in (0, 1))
    if mirrored is not None:
        columns = torch.where(mirrored[:, None, None].to(x.device), columns.flip(1), columns)
    rows, columns = (matrix.to(x.dtype).unsqueeze(1) for matrix in (rows, columns))
    return rows @ x @ columns.mT


def _interpolation(first: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Weights [n, size, side]: each of `size` pixels from those `first` .. `first + length - 1` of `side`."""
    first, length = first[:, None, None], length[:, None, None]
    before, after = int((-first).max().clamp(min=0)), int((first + length - side).max().clamp(min=0))
    pixels = torch.arange(-before, side + after, dtype=first.dtype, device=first.device)
    scale = length / size
    centres = first + (torch.arange(size, dtype=first.dtype, device=first.device)[:, None] + 0.5) * scale - 0.5
    weights = (1 - (centres - pixels).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixels >= first) & (pixels < first + length))
    return (weights / weights.sum(2, keepdim=True))[:, :, before : before + side]
