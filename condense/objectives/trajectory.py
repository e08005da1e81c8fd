"""Trajectory matching losses."""

from torch import Tensor


def normalised_distance(end: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """|theta_N - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2, over all parameters together.

    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", 2022, arXiv 2203.11932, equation 2.
    All three are flat parameter vectors [P]; the result is 0-dimensional. 1 means "no nearer than not moving".
    """
    return (end - target).square().sum() / (start - target).square().sum()
