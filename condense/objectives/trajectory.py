"""Trajectory matching losses."""

from torch import Tensor


def normalised_distance(end: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """|theta_N - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2, over all parameters together.

    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", 2022, arXiv 2203.11932, equation 2.
    All three are flat parameter vectors [P]; the result is 0-dimensional. 1 means "no nearer than not moving".
    """
    return (end - target).square().sum() / (start - target).square().sum()


def filtered_distance(end: Tensor, start: Tensor, target: Tensor, ratio: float) -> Tensor:
    """`normalised_distance` over the parameters that are matched worst, above and below the line.

    Left out are the floor(ratio P) with the least (theta_N - target)^2; which these are has no derivative. The released
    code of PAD has this, its paper does not (Li et al., "Prioritize Alignment in Dataset Distillation", 2024, arXiv
    2408.03360).
    """
    errors = (end - target).square()
    kept = errors.detach().topk(len(errors) - int(ratio * len(errors)), sorted=False).indices
    return errors[kept].sum() / (start - target)[kept].square().sum()
