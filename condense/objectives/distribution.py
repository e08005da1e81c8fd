"""Distances between the features of real and synthetic images. f_r [..., n, d], f_s [..., m, d]."""

from torch import Tensor


def mean_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """|mean f_r - mean f_s|^2, summed over d, not averaged.

    DM: Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv 2110.04181, equation 4.
    Leading dimensions (classes) are kept: [..., n, d], [..., m, d] -> [...].
    """
    return (real.mean(-2) - synthetic.mean(-2)).square().sum(-1)
