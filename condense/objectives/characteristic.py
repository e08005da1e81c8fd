"""The distance of two distributions by their characteristic functions."""

import torch
from torch import Tensor

PHASE_FLOOR = 1e-12
"""Keeps the root differentiable where the samples agree."""


def characteristic_function(features: Tensor, frequencies: Tensor) -> Tensor:
    """Phi(t) = mean over f of exp(i <t, f>), complex: features [..., n, d] at frequencies [T, d] -> [..., T]."""
    phase = features @ frequencies.mT
    return torch.complex(phase.cos().mean(-2), phase.sin().mean(-2))


def characteristic_distance(real: Tensor, synthetic: Tensor, frequencies: Tensor, alpha: float = 0.5) -> Tensor:
    """Mean over t of sqrt(alpha amplitude + (1 - alpha) phase), with Phi_r, Phi_s the characteristic functions at t and

    amplitude = (|Phi_r| - |Phi_s|)^2
    phase     = max(2 (|Phi_r| |Phi_s| - Re(Phi_r conj Phi_s)), 1e-12)
              = 2 |Phi_r| |Phi_s| (1 - cos of the angle between them), at least 1e-12

    amplitude + phase = |Phi_r - Phi_s|^2, so alpha = 1/2 gives mean |Phi_r - Phi_s| / sqrt 2. alpha is in [0, 1).
    real [..., n, d], synthetic [..., m, d], frequencies [T, d] -> [...].

    NCFM: Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
    arXiv 2502.20653; the floor is that of its code.
    """
    r, s = characteristic_function(real, frequencies), characteristic_function(synthetic, frequencies)
    amplitude = (r.abs() - s.abs()).square()
    phase = 2 * (r.abs() * s.abs() - (r * s.conj()).real)
    return (alpha * amplitude + (1 - alpha) * phase.clamp(min=PHASE_FLOOR)).sqrt().mean(-1)
