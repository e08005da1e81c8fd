"""The matching loss against numpy, its limits and its gradient."""

import numpy as np
import pytest
import torch

from condense.objectives import normalised_distance
from condense.rng import generator


@pytest.fixture
def vectors():
    """end, start, target [50]"""
    return torch.randn(3, 50, dtype=torch.float64, generator=generator(0, "vectors")).unbind()


def test_is_a_ratio_of_squared_distances(vectors):
    end, start, target = (v.numpy() for v in vectors)
    loss = normalised_distance(*vectors)
    assert loss.shape == ()
    expected = np.linalg.norm(end - target) ** 2 / np.linalg.norm(start - target) ** 2
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_is_one_without_a_move_and_zero_at_the_target(vectors):
    _, start, target = vectors
    assert normalised_distance(start, start, target) == 1
    assert normalised_distance(target, start, target) == 0
    assert normalised_distance((start + target) / 2, start, target) == pytest.approx(0.25)


@pytest.mark.parametrize("factor", [1e-4, -3.0])
def test_does_not_depend_on_scale_or_origin(vectors, factor):
    moved = [v * factor + 7 for v in vectors]
    torch.testing.assert_close(normalised_distance(*moved), normalised_distance(*vectors), rtol=1e-8, atol=0)


def test_gradient_in_closed_form(vectors):
    end, start, target = vectors
    end = end.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(normalised_distance(end, start, target), end)
    expected = 2 * (end - target) / (start - target).square().sum()
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-12, atol=0)
