"""Scores of a distilled set that take its labels and its augmentation into account.

Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025, arXiv 2505.13300. All accuracies are
fractions in [0, 1]; the published code puts percentages into these equations, which leave their ranges then.
"""

import math


def hlr(real_hard: float, syn_hard: float) -> float:
    """Hard-label recovery HLR = Acc(real-hard) - Acc(syn-hard), in [-1, 1]: what is lost by training on the set.

    Both accuracies are with hard labels: of the whole real training set, and of the distilled one. Smaller is better.
    Raises ValueError for an accuracy outside [0, 1].
    """
    return _difference(real_hard=real_hard, syn_hard=syn_hard)


def ior(syn_any: float, rdm_any: float) -> float:
    """Improvement over random IOR = Acc(syn-any) - Acc(rdm-any), in [-1, 1].

    The distilled set, and as many random real images, each under the method's own evaluation, its kind of labels
    included. Larger is better. Raises ValueError for an accuracy outside [0, 1].
    """
    return _difference(syn_any=syn_any, rdm_any=rdm_any)


def lrs(*, real_hard: float, syn_hard: float, syn_any: float, rdm_any: float, w: float = 0.5) -> float:
    """Label-robust score LRS = (e^alpha - e^-1) / (e - e^-1), in [0, 1], with alpha = w IOR - (1 - w) HLR.

    Larger is better; a set that is neither better than random images nor worse than the full data has alpha = 0 and
    LRS = 1 / (e + 1) = 0.269. Raises ValueError for an accuracy or a weight outside [0, 1].
    """
    _within("w", w)
    return _score(w * ior(syn_any, rdm_any) - (1 - w) * hlr(real_hard, syn_hard))


def ars(*, syn_aug: float, rdm_aug: float, syn_naug: float, rdm_naug: float, gamma: float = 0.5) -> float:
    """Augmentation-robust score ARS = (e^beta - e^-1) / (e - e^-1), in [0, 1].

    beta = gamma (Acc(syn-aug) - Acc(rdm-aug)) + (1 - gamma) (Acc(syn-naug) - Acc(rdm-naug)): how far the set is above
    random images with its augmentation and without any, labels as they are. Larger is better. Raises ValueError for an
    accuracy or a weight outside [0, 1].
    """
    _within("gamma", gamma)
    above, above_plain = (
        _difference(syn_aug=syn_aug, rdm_aug=rdm_aug),
        _difference(syn_naug=syn_naug, rdm_naug=rdm_naug),
    )
    return _score(gamma * above + (1 - gamma) * above_plain)


def _score(exponent: float) -> float:
    """From [-1, 1] to [0, 1], 0 to 0.269; rounding may have carried the exponent a little beyond."""
    exponent = min(max(exponent, -1.0), 1.0)
    return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))


def _difference(**accuracies: float) -> float:
    """The first minus the second."""
    for name, value in accuracies.items():
        _within(f"accuracy {name}", value)
    first, second = accuracies.values()
    return first - second


def _within(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value}: must be a fraction in [0, 1]")
