"""How far the statistics of a batch are from those that the batch norms of a network have seen in training."""

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST = 10.0
"""Weight of the first layer; the others have 1."""


def statistics_distance(inputs: Sequence[Tensor], running: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """R = sum_l w_l (|mean_l - mean_l^run| + |var_l - var_l^run|), 0-dimensional; w = 10, 1, 1, ...

    `inputs` of the batch norms [n, c, ...], in the order in which they run, and their running (mean [c], variance [c]).
    The batch's are taken for each channel over all else, the variance biased. Norms are Euclidean and not squared; at a
    distance of 0 the gradient is 0.

    Yin, Xing and Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective"
    (SRe2L), NeurIPS 2023, arXiv 2306.13092, with the weights of the released code; first used by DeepInversion, arXiv
    1912.08795.
    """
    distances = []
    for x, (mean, variance) in zip(inputs, running, strict=True):
        batch_variance, batch_mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        distances.append((batch_mean - mean).norm() + (batch_variance - variance).norm())
    first, *others = distances
    return torch.stack([FIRST * first, *others]).sum()
