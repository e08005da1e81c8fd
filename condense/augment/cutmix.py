"""CutMix: part of each image is replaced by that of another, and the labels are mixed in proportion.

Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019, arXiv
1905.04899. The box is drawn once for the batch: lambda uniform on [0, 1) (Beta(1, 1)), sides sqrt(1 - lambda) of the
image's, the centre anywhere in it, cut off at the border; r is the part of the image outside the box.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def cutmix(x: Tensor, y: Tensor, classes: int, generator: torch.Generator, probability: float) -> tuple[Tensor, Tensor]:
    """Images x [n, ch, h, w] and their probabilities [n, classes], from labels y [n] or probabilities [n, classes].

    With `probability` all images are mixed: y'_i = r y_i + (1 - r) y_j for the image j that fills the box of i.
    Otherwise nothing changes but the labels' form. As many numbers are drawn either way.
    """
    chance, lam, *centre = torch.rand(4, generator=generator).tolist()
    others = torch.randperm(len(x), generator=generator).to(x.device)
    soft = F.one_hot(y, classes).to(x.dtype) if y.ndim == 1 else y
    if chance >= probability:
        return x, soft
    height, width = x.shape[2:]
    top, left, bottom, right = box = patch((height, width), lam, centre)
    r = 1 - (bottom - top) * (right - left) / (height * width)
    return paste(x, others, box), r * soft + (1 - r) * soft[others]


def patch(sides: Sequence[int], lam: float, centre: Sequence[float]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the box for lambda and a centre, all in [0, 1), in an image with these sides."""
    spans = []
    for side, c in zip(sides, centre, strict=True):
        half = int(side * (1 - lam) ** 0.5) // 2
        middle = int(side * c)
        spans.append((max(middle - half, 0), min(middle + half, side)))
    (top, bottom), (left, right) = spans
    return top, left, bottom, right


def paste(x: Tensor, others: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Images x [n, ch, h, w] with the box (top, left, bottom, right) of each replaced by that of x[others]."""
    top, left, bottom, right = box
    x = x.clone()
    x[:, :, top:bottom, left:right] = x[others, :, top:bottom, left:right]
    return x
