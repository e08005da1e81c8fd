"""Clamping preprocessed images to what pixels can be."""

import pytest
import torch

from condense.data import RealData, Split, fit_preprocessing
from condense.rng import generator
from condense.synthetic import clamp_to_pixels


@pytest.fixture(scope="module", params=["mean_std", "zca"])
def preprocessing(request):
    images = torch.randint(256, (60, 3, 4, 4), generator=generator(0, "images"), dtype=torch.uint8)
    images[:, 1] //= 3  # channels of different mean and deviation
    split = Split(images, torch.arange(60) % 2)
    data = RealData("random", split, split, split, ("a", "b"), "0" * 64, "test", mirrored=False)
    return fit_preprocessing(request.param, data, None).to("cpu", torch.float64)


def pixels(low, high):
    """Three images with pixels uniform on low .. high."""
    return low + (high - low) * torch.rand(3, 3, 4, 4, dtype=torch.float64, generator=generator(0, "pixels"))


def test_pixels_are_clamped_one_by_one(preprocessing):
    wild = pixels(-1, 2)
    clamped = preprocessing.inverse(clamp_to_pixels(preprocessing(wild), preprocessing))
    torch.testing.assert_close(clamped, wild.clamp(0, 1), rtol=0, atol=1e-6)
    assert ((wild < 0) | (wild > 1)).sum() > 50


def test_images_in_range_keep_their_bits(preprocessing):
    """Even next to one that is not, so that nothing drifts in thousands of iterations."""
    images = preprocessing(torch.cat([pixels(0.01, 0.99), pixels(-1, 2)]))
    clamped = clamp_to_pixels(images, preprocessing)
    assert torch.equal(clamped[:3], images[:3])
    assert not any(torch.equal(a, b) for a, b in zip(clamped[3:], images[3:], strict=True))


def test_clamping_does_not_write_into_the_images(preprocessing):
    images = preprocessing(pixels(-1, 2))
    before = images.clone()
    clamp_to_pixels(images, preprocessing)
    assert torch.equal(images, before)
