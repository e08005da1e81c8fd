"""The distance by characteristic functions, against closed forms and the definition written out."""

import cmath
import math

import pytest
import torch

from condense.objectives import characteristic_distance, characteristic_function
from condense.rng import generator


def draw(*shape, index=0):
    return torch.randn(shape, dtype=torch.float64, generator=generator(0, "draw", index))


def gaussians(n, mean, root, index):
    return mean + draw(n, len(mean), index=index) @ root


def written_out(real, synthetic, frequencies, alpha):
    """The definition, one complex number after another."""
    total = 0.0
    for t in frequencies.tolist():
        r, s = (
            sum(cmath.exp(1j * math.fsum(a * b for a, b in zip(t, f, strict=True))) for f in sample) / len(sample)
            for sample in (real.tolist(), synthetic.tolist())
        )
        angle = cmath.phase(r) - cmath.phase(s)
        phase = 2 * abs(r) * abs(s) * (1 - math.cos(angle))
        total += math.sqrt(alpha * (abs(r) - abs(s)) ** 2 + (1 - alpha) * max(phase, 1e-12))
    return total / len(frequencies)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9])
def test_against_the_definition(alpha):
    real, synthetic, frequencies = draw(7, 4), draw(3, 4, index=1), draw(6, 4, index=2)
    value = characteristic_distance(real, synthetic, frequencies, alpha)
    assert float(value) == pytest.approx(written_out(real, synthetic, frequencies, alpha), rel=1e-12)


def test_the_characteristic_function_of_a_gaussian():
    """exp(i <t, m> - t' S t / 2), within five standard errors of the sample mean."""
    n, d = 200_000, 3
    mean, root = torch.tensor([0.4, -0.3, 0.1]).double(), 0.5 * draw(d, d)
    frequencies = 0.7 * draw(8, d, index=1)
    covariance = root.mT @ root
    exponent = torch.complex(-torch.einsum("ti,ij,tj->t", frequencies, covariance, frequencies) / 2, frequencies @ mean)
    error = characteristic_function(gaussians(n, mean, root, 2), frequencies) - exponent.exp()
    assert error.abs().max() < 5 / math.sqrt(n)
    assert exponent.exp().abs().min() > 0.01  # there is something to find


def test_two_gaussians_in_closed_form():
    """The distance of large samples is that of the functions they come from."""
    n, mean, other = 100_000, torch.tensor([0.2, 0.5]).double(), torch.tensor([-0.3, 0.4]).double()
    root, wider, frequencies = torch.eye(2).double(), 1.5 * torch.eye(2).double(), 0.7 * draw(12, 2)
    r, s = (
        torch.exp(torch.complex(-(width**2) * frequencies.square().sum(1) / 2, frequencies @ m))
        for width, m in ((1.0, mean), (1.5, other))
    )
    amplitude = (r.abs() - s.abs()).square()
    exact = (0.3 * amplitude + 0.7 * ((r - s).abs().square() - amplitude)).sqrt().mean()
    measured = characteristic_distance(
        gaussians(n, mean, root, 1), gaussians(n, other, wider, 2), frequencies, alpha=0.3
    )
    assert float(measured) == pytest.approx(float(exact), abs=5 * math.sqrt(2 / n))
    assert exact > 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_sample_has_no_distance_to_itself(alpha):
    """But for the floor under the phase, which keeps the gradient finite."""
    x = draw(9, 4).requires_grad_()
    value = characteristic_distance(x.detach(), x, draw(5, 4, index=1), alpha)
    value.backward()
    assert float(value.detach()) == pytest.approx(math.sqrt((1 - alpha) * 1e-12), rel=1e-3)
    assert x.grad.isfinite().all()


def test_amplitudes_and_phases_are_the_two_parts_of_the_difference():
    real, synthetic, frequencies = draw(7, 4), draw(3, 4, index=1), draw(6, 4, index=2)
    difference = characteristic_function(real, frequencies) - characteristic_function(synthetic, frequencies)
    expected = float(difference.abs().mean()) / math.sqrt(2)
    assert float(characteristic_distance(real, synthetic, frequencies, 0.5)) == pytest.approx(expected, rel=1e-12)


def test_a_shift_changes_phases_only():
    """So its distance goes with the root of 1 - alpha."""
    x, frequencies = draw(7, 4), draw(6, 4, index=1)
    only_phases = characteristic_distance(x, x + 0.3, frequencies, 0.0)
    assert float(characteristic_distance(x, x + 0.3, frequencies, 0.75)) == pytest.approx(float(only_phases) / 2)
    assert only_phases > 0.1


def test_a_symmetric_sample_that_widens_changes_amplitudes_only():
    """Both functions are real and, at low frequencies, positive: what is left is the amplitude and the floor."""
    x, frequencies = 0.2 * draw(7, 4), 0.5 * draw(6, 4, index=1)
    x = torch.cat([x, -x])
    gap = (characteristic_function(x, frequencies) - characteristic_function(2 * x, frequencies)).abs().mean()
    assert float(characteristic_distance(x, 2 * x, frequencies, 0.81)) == pytest.approx(0.9 * float(gap), rel=1e-6)
    assert gap > 0.01


def test_the_order_of_a_sample_does_not_matter():
    real, synthetic, frequencies = draw(7, 4), draw(5, 4, index=1), draw(6, 4, index=2)
    value = characteristic_distance(real, synthetic, frequencies)
    shuffled = characteristic_distance(real.flip(0), synthetic.roll(2, 0), frequencies.flip(0))
    torch.testing.assert_close(shuffled, value, rtol=1e-13, atol=0)


def test_classes_together_are_the_classes_one_by_one():
    real, synthetic, frequencies = draw(2, 3, 7, 4), draw(2, 3, 5, 4, index=1), draw(6, 4, index=2)
    together = characteristic_distance(real, synthetic, frequencies, 0.3)
    assert together.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(
                together[i, j], characteristic_distance(real[i, j], synthetic[i, j], frequencies, 0.3)
            )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_gradients_against_finite_differences(alpha):
    """By the synthetic sample and by the frequencies."""
    real = draw(5, 3)
    given = draw(4, 3, index=1).requires_grad_(), draw(6, 3, index=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: characteristic_distance(real, x, t, alpha), given)
