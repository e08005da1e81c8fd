"""Crop with flip and the ImageNet recipe: against DSA's oracle, in closed form on ramps, and image by image."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from oracles import dsa as oracle

from condense.augment import crop_flip, standard
from condense.augment.standard import resized_crop
from condense.rng import generator

BOTH = pytest.mark.parametrize("augment", [crop_flip, standard], ids=["crop_flip", "standard"])


def images(n, shape=(3, 8, 8)):
    return torch.randn(n, *shape, dtype=torch.float64, generator=generator(0, "images"))


def ramps(n, side=9):
    """Two channels: the right and the down coordinate, -1 to 1. Bilinear interpolation is exact on them."""
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    return torch.stack([line.expand(side, side), line[:, None].expand(side, side)]).expand(n, 2, side, side)


@pytest.mark.parametrize("mirrored", [True, False])
def test_crop_flip_is_the_oracles_crop_then_flip(mirrored):
    x = images(30)
    u = torch.rand(30, 3, generator=generator(1, "draw"))
    out = crop_flip(x, generator(1, "draw"), mirrored=mirrored)
    for image, numbers, result in zip(x.numpy(), u.tolist(), out, strict=True):
        expected = oracle.crop(image, numbers)
        if mirrored:
            expected = oracle.flip(expected, numbers[2:])
        np.testing.assert_array_equal(result, expected)


def test_standard_is_a_resized_crop_then_flip_and_colour():
    x = images(30)
    u = torch.rand(30, 8, generator=generator(1, "draw"))
    out = standard(x, generator(1, "draw"), mirrored=True)
    for image, numbers, result in zip(resized_crop(x, u).numpy(), u.tolist(), out, strict=True):
        expected = oracle.color(oracle.flip(image, numbers[4:]), numbers[5:])
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_resized_crops_show_a_box_inside_the_image_of_the_drawn_area_and_aspect():
    n = 4000
    out = resized_crop(ramps(n), torch.rand(n, 4, dtype=torch.float64, generator=generator(2, "draw")))
    left, right, top, bottom = out[:, 0, 4, 0], out[:, 0, 4, 8], out[:, 1, 0, 4], out[:, 1, 8, 4]
    for first, last in ((left, right), (top, bottom)):
        assert first.min() >= -1 - 1e-9 and last.max() <= 1 + 1e-9
        assert first.min() < -0.99 and last.max() > 0.99
    width, height = (right - left) / 2, (bottom - top) / 2
    area, whole = width * height, (width < 1 - 1e-9) & (height < 1 - 1e-9)
    assert 0.08 - 1e-9 <= area.min() < 0.1 and area.max() <= 1
    assert abs(float(area.mean()) - 0.54) < 0.03  # a little below (0.08 + 1) / 2: some boxes are cut
    aspect = (width / height)[whole].log() / math.log(4 / 3)
    assert aspect.abs().max() <= 1 + 1e-9 and aspect.min() < -0.95 and aspect.max() > 0.95
    centres = ((left + right) / 2 / (1 - width))[whole]
    assert centres.min() < -0.95 and centres.max() > 0.95 and abs(float(centres.mean())) < 0.05


def test_the_whole_image_is_the_identity():
    u = torch.tensor([[1.0, 0.5, 0.3, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(resized_crop(images(4), u.expand(4, 4)), images(4), rtol=1e-12, atol=1e-12)


@BOTH
def test_images_are_mirrored_only_where_that_keeps_the_class(augment):
    """A ramp to the right goes on to rise to the right: resizing, shifting and colour do not turn it round."""
    x = torch.linspace(1, 9, 9, dtype=torch.float64).expand(400, 1, 9, 9)

    def falls(mirrored):
        out = augment(x, generator(3, "draw"), mirrored=mirrored)[:, 0, 4]
        return float((out[:, 5] < out[:, 3]).double().mean())

    assert falls(False) == 0 and 0.4 < falls(True) < 0.6


@BOTH
def test_every_image_gets_parameters_of_its_own(augment):
    x = images(1).expand(16, -1, -1, -1)
    out = augment(x, generator(4, "draw"), mirrored=True)
    assert len({tuple(image.flatten().tolist()) for image in out}) > 10
    assert out.shape == x.shape and out.dtype == x.dtype and out.isfinite().all()


@BOTH
def test_the_generator_given_decides_and_the_global_one_is_left_alone(augment):
    x, draw = images(6), partial(augment, mirrored=True)
    before, kept = torch.get_rng_state(), x.clone()
    once = draw(x, generator(5, "draw"))
    assert torch.equal(draw(x, generator(5, "draw")), once)
    assert not torch.equal(draw(x, generator(6, "draw")), once)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(x, kept)
