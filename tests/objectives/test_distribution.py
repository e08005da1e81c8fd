"""The distance of mean features against loops, its limits and its gradient."""

import numpy as np
import pytest
import torch

from condense.objectives import mean_distance
from condense.rng import generator


def draw(*shape, index=0):
    return torch.randn(shape, dtype=torch.float64, generator=generator(0, "features", index))


def loops(real, synthetic):
    """Sum over features of the squared difference of their means."""
    total = 0.0
    for k in range(real.shape[1]):
        difference = sum(real[:, k].tolist()) / len(real) - sum(synthetic[:, k].tolist()) / len(synthetic)
        total += difference**2
    return total


def test_equals_plain_loops():
    real, synthetic = draw(7, 5), draw(3, 5, index=1)
    value = mean_distance(real, synthetic)
    assert value.shape == ()
    assert float(value) == pytest.approx(loops(real, synthetic), rel=1e-12)


def test_it_is_a_sum_over_features():
    """Twice as many features of the same values are twice the distance."""
    real, synthetic = draw(7, 5), draw(3, 5, index=1)
    twice = mean_distance(real.repeat(1, 2), synthetic.repeat(1, 2))
    assert float(twice) == pytest.approx(2 * float(mean_distance(real, synthetic)), rel=1e-12)


def test_classes_in_front_are_kept():
    real, synthetic = draw(4, 7, 5), draw(4, 3, 5, index=1)
    expected = [loops(r, s) for r, s in zip(real, synthetic, strict=True)]
    np.testing.assert_allclose(mean_distance(real, synthetic), expected, rtol=1e-12)


def test_only_means_count():
    real = draw(6, 5)
    spread = draw(3, 5, index=1)
    synthetic = real.mean(0) + torch.cat([spread, -spread])
    assert float(mean_distance(real, synthetic)) < 1e-28
    assert float(mean_distance(real, real[torch.tensor([5, 3, 1, 0, 2, 4])])) < 1e-28


def test_gradient_in_closed_form():
    real, synthetic = draw(7, 5), draw(3, 5, index=1).requires_grad_()
    (gradient,) = torch.autograd.grad(mean_distance(real, synthetic), synthetic)
    expected = 2 / 3 * (synthetic.detach().mean(0) - real.mean(0))
    torch.testing.assert_close(gradient, expected.expand(3, 5), rtol=1e-12, atol=0)
