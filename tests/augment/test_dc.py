"""DC's operators against scipy, F.interpolate and slicing, one image at a time."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from condense.augment import dc
from condense.rng import generator

SIDES = [28, 9]


def images(n, side, channels=2):
    return torch.randn(n, channels, side, side, dtype=torch.float64, generator=generator(0, "images"))


def means(x):
    return x.mean((0, 2, 3), keepdim=True)


def uniform(n):
    return torch.rand(n, 2, generator=generator(1, "u"))


@pytest.mark.parametrize("side", SIDES)
def test_crop_is_a_window_of_the_padded_image(side):
    x, u = images(50, side), uniform(50)
    m = means(x)
    out = dc.crop(x, u, m)
    drawn = set()
    for i in range(50):
        padded = m[0].expand(2, side + 8, side + 8).clone()
        padded[:, 4:-4, 4:-4] = x[i]
        a, b = (int(value * 8) for value in u[i])
        drawn |= {a, b}
        assert torch.equal(out[i], padded[:, a : a + side, b : b + side])
    assert drawn == set(range(8))


@pytest.mark.parametrize("side", SIDES)
def test_scale_is_nearest_resizing_on_a_zero_canvas(side):
    x, u = images(60, side), uniform(60)
    out = dc.scale(x, u, means(x))
    for i in range(60):
        h, w = (int((0.8 + 0.4 * float(value)) * side) for value in u[i])
        big = max(h, w, side)
        canvas = torch.zeros(2, big, big, dtype=x.dtype)
        top, left = (big - h) // 2, (big - w) // 2
        canvas[:, top : top + h, left : left + w] = F.interpolate(x[i : i + 1], [h, w])[0]
        cut = (big - side) // 2
        assert torch.equal(out[i], canvas[:, cut : cut + side, cut : cut + side])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_rotate_is_scipys_cubic_rotation(side, dtype, error):
    x = images(90, side).to(dtype)
    u = torch.stack([(torch.arange(90) + 0.5) / 90, torch.zeros(90)], 1)  # every angle once
    m = means(x)
    out = dc.rotate(x, u, m).numpy()
    for i, angle in enumerate(range(-45, 45)):
        turned = ndimage.rotate(x[i].double().numpy(), angle, axes=(-2, -1), cval=float(m.mean()))
        cut = (turned.shape[1] - side) // 2
        np.testing.assert_allclose(out[i], turned[:, cut : cut + side, cut : cut + side], atol=error)


def test_every_image_gets_one_operator_of_its_own():
    x = images(300, 9)
    out = dc.crop_scale_rotate(x, generator(2, "dc"))
    gen = generator(2, "dc")
    operation, u = torch.randint(3, (300,), generator=gen), torch.rand(300, 2, generator=gen)
    candidates = [function(x, u, means(x)) for function in (dc.crop, dc.scale, dc.rotate)]
    for k, candidate in enumerate(candidates):
        torch.testing.assert_close(out[operation == k], candidate[operation == k], rtol=0, atol=1e-12)
    assert operation.bincount().min() > 75


def test_a_batch_of_one_works():
    for seed in range(6):
        assert dc.crop_scale_rotate(images(1, 28), generator(seed, "one")).isfinite().all()
