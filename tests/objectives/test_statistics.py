"""The statistics distance against loops over channels, its weights, and its gradient."""

import numpy as np
import pytest
import torch

from condense.objectives import statistics_distance
from condense.rng import generator

SHAPES = [(5, 3, 4, 4), (5, 2, 2, 2), (5, 4)]
"""Inputs of two BatchNorm2d and of a BatchNorm1d."""


@pytest.fixture
def layers():
    """Inputs, and running statistics that are not theirs."""
    draws = generator(0, "statistics")
    inputs = [2 * torch.randn(shape, generator=draws, dtype=torch.float64) + 1 for shape in SHAPES]
    running = [tuple(torch.rand(2, shape[1], generator=draws, dtype=torch.float64)) for shape in SHAPES]
    return inputs, running


def slow(inputs, running):
    """One layer and channel at a time, in numpy."""
    total = 0.0
    for layer, (x, (mean, variance)) in enumerate(zip(inputs, running, strict=True)):
        of_mean = of_variance = 0.0
        for c in range(x.shape[1]):
            values = x[:, c].numpy().ravel()
            centre = values.sum() / len(values)
            of_mean += (centre - float(mean[c])) ** 2
            of_variance += (((values - centre) ** 2).sum() / len(values) - float(variance[c])) ** 2
        total += (10 if layer == 0 else 1) * (np.sqrt(of_mean) + np.sqrt(of_variance))
    return total


def test_equals_loops_over_layers_and_channels(layers):
    assert float(statistics_distance(*layers)) == pytest.approx(slow(*layers), rel=1e-12)


def test_the_first_layer_counts_ten_times(layers):
    alone = [float(statistics_distance([x], [run])) / 10 for x, run in zip(*layers, strict=True)]
    assert float(statistics_distance(*layers)) == pytest.approx(10 * alone[0] + alone[1] + alone[2], rel=1e-12)


def test_gradient_is_that_of_finite_differences(layers):
    inputs, running = layers
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: statistics_distance(x, running), inputs)


def test_is_zero_with_no_gradient_at_the_running_statistics(layers):
    inputs, _ = layers
    x = inputs[0].requires_grad_()
    variance, mean = torch.var_mean(x.detach(), [0, 2, 3], correction=0)
    distance = statistics_distance([x], [(mean, variance)])
    (gradient,) = torch.autograd.grad(distance, x)
    assert distance.eq(0) and gradient.eq(0).all()
