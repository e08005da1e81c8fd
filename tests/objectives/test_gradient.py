"""Distances of gradients against loops over numbers, closed forms and limits."""

import numpy as np
import pytest
import torch
from oracles import gradient as oracle

from condense.objectives import cosine_distance, row_distance, squared_distance
from condense.rng import generator

SHAPES = [(5, 2, 3, 3), (5,), (4, 3, 3), (4, 3, 3), (3, 20), (3,)]
"""A convolution and its bias, a layer norm, a linear layer and its bias."""
ROWS = 5 + 4 + 4 + 3


def gradients(index=0, shapes=SHAPES, scale=1.0):
    draws = generator(0, "gradients", index)
    return [scale * torch.randn(shape, dtype=torch.float64, generator=draws) for shape in shapes]


def zeros(shapes=SHAPES):
    return [torch.zeros(shape, dtype=torch.float64) for shape in shapes]


def flat(tensors):
    return np.concatenate([tensor.numpy().ravel() for tensor in tensors])


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
def test_rows_equal_the_oracle(scale):
    """At small scales the 1e-6 below the line counts."""
    a, b = gradients(0, scale=scale), gradients(1, scale=scale)
    value = row_distance(a, b)
    assert value.shape == () and value.dtype == torch.float64
    assert float(value) == pytest.approx(oracle.row_distance(a, b), rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((5, 2, 3, 3), 5), ((4, 3, 3), 4), ((3, 20), 3), ((7,), 0)],
    ids=["conv", "norm", "linear", "bias"],
)
def test_rows_of_each_kind_of_parameter(shape, rows):
    """Each row of a non-zero gradient is at distance 1 from a zero row, so the distance counts them."""
    a = gradients(shapes=[shape])
    assert float(row_distance(a, zeros([shape]))) == rows
    for o in range(rows):  # and all numbers of a row, and no others, are in it
        b = [tensor.clone() for tensor in a]
        b[0][o] *= -1
        length = float(a[0][o].square().sum())
        same = sum(1e-6 / (float(row.square().sum()) + 1e-6) for row in a[0]) - 1e-6 / (length + 1e-6)
        assert float(row_distance(a, b)) == pytest.approx(same + 1 + length / (length + 1e-6), rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_a_gradient_to_itself_and_to_its_opposite(scale):
    """eps / (|g|^2 + eps) for each row, so not 0 for a small gradient; and 2 less that."""
    a = gradients(scale=scale)
    squares = [sum(v * v for v in row) for tensor in a for row in oracle.rows(tensor)]
    expected = sum(1e-6 / (square + 1e-6) for square in squares)
    assert len(squares) == ROWS
    assert float(row_distance(a, a)) == pytest.approx(expected, rel=1e-6)
    opposite = float(row_distance(a, [-tensor for tensor in a]))
    assert opposite == pytest.approx(2 * ROWS - expected, rel=1e-12)


def test_the_length_of_a_row_does_not_count():
    a, b = gradients(0, scale=100), gradients(1, scale=100)
    scaled = [tensor * (1 + torch.arange(len(tensor))).view(-1, *[1] * (tensor.ndim - 1)) for tensor in b]
    assert float(row_distance(a, scaled)) == pytest.approx(float(row_distance(a, b)), rel=1e-7)
    assert float(cosine_distance(a, [3 * tensor for tensor in b])) == pytest.approx(
        float(cosine_distance(a, b)), rel=1e-7
    )


def test_biases_count_in_the_flat_distances_only():
    a, b = gradients(0), gradients(1)
    moved = [tensor + 1 if tensor.ndim == 1 else tensor for tensor in b]
    assert torch.equal(row_distance(a, b), row_distance(a, moved))
    for distance in (cosine_distance, squared_distance):
        assert abs(float(distance(a, b)) - float(distance(a, moved))) > 1e-3


def test_flat_distances_against_numpy():
    a, b = gradients(0), gradients(1)
    p, q = flat(a), flat(b)
    expected = 1 - p @ q / (np.linalg.norm(p) * np.linalg.norm(q) + 1e-6)
    np.testing.assert_allclose(cosine_distance(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(squared_distance(a, b), np.linalg.norm(p - q) ** 2, rtol=1e-12)


@pytest.mark.parametrize("distance", [row_distance, cosine_distance, squared_distance])
def test_derivatives_are_finite_differences(distance):
    a, b = gradients(0), [tensor.requires_grad_() for tensor in gradients(1)]
    assert torch.autograd.gradcheck(lambda *b: distance(a, b), b)


@pytest.mark.parametrize("distance", [row_distance, cosine_distance, squared_distance])
def test_the_derivative_at_a_zero_row_is_finite(distance):
    """A dead unit has a zero row in both gradients; a dead class of units in one."""
    for real_too in (True, False):
        a, b = gradients(0), gradients(1)
        for tensor in (a[0], b[0]) if real_too else (b[0],):
            tensor[2] = 0
        b = [tensor.requires_grad_() for tensor in b]
        derivatives = torch.autograd.grad(distance(a, b), b, allow_unused=True, materialize_grads=True)
        assert all(derivative.isfinite().all() for derivative in derivatives)
        if distance is row_distance and real_too:
            assert not derivatives[0][2].any() and derivatives[0][1].any()


def test_all_gradients_zero():
    b = [tensor.requires_grad_() for tensor in zeros()]
    for distance, expected in ((row_distance, ROWS), (cosine_distance, 1), (squared_distance, 0)):
        value = distance(zeros(), b)
        assert float(value.detach()) == expected
        derivatives = torch.autograd.grad(value, b, allow_unused=True, materialize_grads=True)
        assert all(not derivative.any() for derivative in derivatives)
