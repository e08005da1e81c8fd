"""From the images that are stored to the images that a network is trained on: view(parameterisation(stored)).

All are linear, so they compose with every method: its gradient goes back through them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_COMPENSATORS = 63
"""Of a group: with them the images to train on take up to 64 times the memory of the stored ones."""


def decode(stored: Tensor, factor: int) -> Tensor:
    """Multi-formation (IDC, arXiv 2205.14959): each stored image is a mosaic of factor x factor smaller ones.

    stored [n, ch, h, w] -> [n factor^2, ch, h, w]: image i gives rows i factor^2 .. (i + 1) factor^2 - 1, its cells row
    by row, each enlarged to h x w (bilinear, corners not aligned). Sides that `factor` does not divide give the first
    cells one pixel more.
    """
    if factor == 1:
        return stored
    cells = [cell for band in stored.tensor_split(factor, 2) for cell in band.tensor_split(factor, 3)]
    size = stored.shape[2:]
    return torch.stack([F.interpolate(cell, size, mode="bilinear", align_corners=False) for cell in cells], 1).flatten(
        0, 1
    )


def encode(images: Tensor, factor: int) -> Tensor:
    """Mosaics [n, ch, h, w] of images [n factor^2, ch, h, w], each shrunk into its cell by averaging areas."""
    if factor == 1:
        return images
    cells = iter(images.unflatten(0, (-1, factor**2)).unbind(1))
    template = images[:1]
    bands = []
    for band in template.tensor_split(factor, 2):
        row = [
            F.adaptive_avg_pool2d(next(cells), (cell.shape[2], cell.shape[3])) for cell in band.tensor_split(factor, 3)
        ]
        bands.append(torch.cat(row, 3))
    return torch.cat(bands, 2)


def with_mirror(images: Tensor) -> Tensor:
    """FYI (Son et al., ECCV 2024, arXiv 2407.08113): each image followed by its left-right mirror image, [2 n, ...]."""
    return torch.stack([images, images.flip(3)], 1).flatten(0, 1)


def compensated(images: Tensor, compensators: Tensor) -> Tensor:
    """INFER (Zhang et al., ICLR 2025, arXiv 2408.06927): images, and their sums with what all classes share.

    images [n, ch, h, w] and the M compensators of each of K groups [K, M, ch, h, w] -> [n (M + 1), ch, h, w]: image i,
    which is of group i mod K, gives rows i (M + 1) .. (i + 1) (M + 1) - 1, itself and then its sums, in their order.
    n is a multiple of K.
    """
    alone = images.unflatten(0, (-1, len(compensators))).unsqueeze(2)
    return torch.cat([alone, alone + compensators], 2).flatten(0, 2)
