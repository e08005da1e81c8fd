"""MixUp: each image is averaged with another one, and the labels with the same weights.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412.
"""

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F


def mixup(x: Tensor, y: Tensor, classes: int, generator: torch.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Images x [n, ch, h, w] and their probabilities [n, classes], from labels y [n] or rows y [n, classes].

    x'_i = lambda x_i + (1 - lambda) x_j and y'_i likewise, with one lambda ~ Beta(alpha, alpha) and one permutation
    i -> j for the batch.
    """
    share = draw_share(alpha, generator)
    others = torch.randperm(len(x), generator=generator).to(x.device)
    soft = F.one_hot(y, classes).to(x.dtype) if y.ndim == 1 else y
    return blend(x, others, share), blend(soft, others, share)


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """lambda ~ Beta(alpha, alpha): the inverse of its distribution function at one uniform number."""
    return float(betaincinv(alpha, alpha, torch.rand((), generator=generator, dtype=torch.float64).item()))


def blend(x: Tensor, others: Tensor, share: float) -> Tensor:
    """share x + (1 - share) x[others], for x [n, ...] of images, labels or logits."""
    return share * x + (1 - share) * x[others]
