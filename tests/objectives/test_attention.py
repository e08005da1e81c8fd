"""Attention vectors against loops over pixels and channels, their range, their limits and their gradients."""

import pytest
import torch

from condense.objectives import channel_attention, mean_distance, spatial_attention
from condense.rng import generator

BOTH = pytest.mark.parametrize("attention", [spatial_attention, channel_attention])
POWERS = pytest.mark.parametrize("p", [1.0, 2.5, 4.0])


@pytest.fixture
def maps():
    """F [3, 4, 5, 2] of both signs, none near 0, where |F| has a kink."""
    noise = torch.randn(3, 4, 5, 2, dtype=torch.float64, generator=generator(0, "maps"))
    return noise + 0.1 * noise.sign()


def slow_spatial(maps, p):
    """One image, row and column at a time."""
    vectors = []
    for image in maps:
        channels, height, width = image.shape
        a = [
            sum(abs(image[c, i, j]) ** p for c in range(channels)) for i in range(height) for j in range(width)
        ]  # row after row
        length = sum(value**2 for value in a) ** 0.5
        vectors.append(torch.stack([value / length for value in a]))
    return torch.stack(vectors)


def slow_channel(maps, p):
    """One image and channel at a time."""
    vectors = []
    for image in maps:
        a = [sum(abs(pixel) ** p for pixel in channel.flatten()) for channel in image]
        length = sum(value**2 for value in a) ** 0.5
        vectors.append(torch.stack([value / length for value in a]))
    return torch.stack(vectors)


SLOW = {spatial_attention: slow_spatial, channel_attention: slow_channel}


@BOTH
@POWERS
def test_equals_loops_over_pixels_and_channels_with_its_gradient(maps, attention, p):
    weights = None
    values, gradients = [], []
    for function in (attention, SLOW[attention]):
        x = maps.clone().requires_grad_()
        value = function(x, p)
        if weights is None:
            weights = torch.randn(value.shape, dtype=torch.float64, generator=generator(0, "weights"))
        (gradient,) = torch.autograd.grad((value * weights).sum(), x)
        values.append(value.detach())
        gradients.append(gradient)
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


@BOTH
def test_leading_dimensions_are_kept(maps, attention):
    several = torch.stack([maps, 2 * maps.flip(0)])
    assert torch.equal(attention(several, 4.0)[1], attention(several[1], 4.0))


@BOTH
@POWERS
def test_is_of_unit_length_and_free_of_the_scale_and_sign_of_the_maps(maps, attention, p):
    vectors = attention(maps, p)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    for factor in (-1.0, 1e-2, 1e6):
        torch.testing.assert_close(attention(factor * maps, p), vectors, rtol=1e-12, atol=0)


@BOTH
def test_a_map_of_zeros_has_no_attention_and_no_gradient(attention):
    x = torch.zeros(1, 4, 3, 3, requires_grad=True)
    vector = attention(x, 1.0)
    assert vector.eq(0).all()
    (gradient,) = torch.autograd.grad(vector.sum(), x)
    assert gradient.eq(0).all()


@BOTH
def test_a_larger_exponent_looks_at_less(maps, attention):
    """The largest entry of a vector of unit length grows with the exponent."""
    peaks = [attention(maps, p).amax(-1) for p in (1.0, 2.0, 4.0)]
    assert (peaks[0] < peaks[1]).all() and (peaks[1] < peaks[2]).all()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_do_not_overflow(attention, dtype):
    """20^4 is beyond the largest float16."""
    x = (20 * torch.randn(2, 4, 3, 3, generator=generator(0, "half"))).to(dtype)
    vectors = attention(x, 4.0)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.double(), SLOW[attention](x.double(), 4.0), rtol=1e-5, atol=1e-7)


@BOTH
def test_a_term_of_the_loss_is_at_most_two_per_class_and_can_reach_it(attention):
    draws = generator(0, "bound")
    for _ in range(20):
        real, synthetic = (torch.randn(7, 6, 4, 3, 3, generator=draws).relu() for _ in range(2))
        terms = mean_distance(attention(real, 4.0), attention(synthetic, 4.0))
        assert terms.shape == (7,) and (terms <= 2).all() and (terms > 0).all()
    here, there = torch.zeros(1, 5, 2, 2, 2), torch.zeros(1, 5, 2, 2, 2)
    here[..., 0, 0, 0] = 3.0
    there[..., 1, 1, 1] = 5.0
    torch.testing.assert_close(mean_distance(attention(here, 4.0), attention(there, 4.0)), torch.tensor([2.0]))
