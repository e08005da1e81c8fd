"""CutMix against a slow version that is given the same numbers, and what its labels must say."""

import math

import pytest
import torch

from condense.augment import cutmix
from condense.rng import generator

CLASSES = 4


def batch(n=6, shape=(2, 8, 8)):
    x = torch.randn(n, *shape, dtype=torch.float64, generator=generator(0, "images"))
    return x, torch.arange(n) % CLASSES


def numbers(index, n):
    """The draws of an address: the chance, lambda, the centre, and who fills whose box."""
    draws = generator(0, "cutmix", index)
    chance, lam, down, right = torch.rand(4, generator=draws).tolist()
    return chance, lam, (down, right), torch.randperm(n, generator=draws).tolist()


def slow(x, y, lam, centre, others):
    """Pixel by pixel; the label of j counts with the part of the pixels that came from j."""
    n, channels, height, width = x.shape
    half = [int(side * math.sqrt(1 - lam)) // 2 for side in (height, width)]
    middle = [int(side * c) for side, c in zip((height, width), centre, strict=True)]
    out, probabilities = torch.zeros_like(x), torch.zeros(n, CLASSES, dtype=x.dtype)
    for i in range(n):
        for r in range(height):
            for c in range(width):
                inside = -half[0] <= r - middle[0] < half[0] and -half[1] <= c - middle[1] < half[1]
                source = others[i] if inside else i
                for k in range(channels):
                    out[i, k, r, c] = x[source, k, r, c]
                probabilities[i, y[source]] += 1 / (height * width)
    return out, probabilities


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 7, 5)])
def test_equals_the_slow_version(shape):
    x, y = batch(shape=shape)
    before, mixed_at_all = x.clone(), 0
    for index in range(12):
        _, lam, centre, others = numbers(index, len(x))
        mixed, probabilities = cutmix(x, y, CLASSES, generator(0, "cutmix", index), 1.0)
        images, labels = slow(x, y, lam, centre, others)
        assert torch.equal(mixed, images)
        torch.testing.assert_close(probabilities, labels, rtol=1e-12, atol=1e-12)
        mixed_at_all += not torch.equal(mixed, x)
    assert mixed_at_all > 6
    assert torch.equal(x, before), "the images given are left alone"


def test_labels_are_probabilities_that_count_pixels():
    """Every image is of one colour, its number, so that the pixels tell where they came from."""
    n = 8
    x, y = torch.arange(n).double().view(n, 1, 1, 1).expand(n, 1, 16, 16), torch.arange(n)
    areas = []
    for index in range(200):
        mixed, probabilities = cutmix(x, y, n, generator(1, "cutmix", index), 1.0)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(n).double(), rtol=1e-12, atol=1e-12)
        counted = torch.stack([(mixed == k).double().mean((1, 2, 3)) for k in range(n)], 1)
        torch.testing.assert_close(probabilities, counted, rtol=1e-12, atol=1e-12)
        areas.append(float(1 - probabilities.diagonal().min()))
    areas = torch.tensor(areas)
    assert areas.min() == 0 and areas.max() > 0.7
    # Without the border the mean of 1 - lambda is 1/2; a centre anywhere in the image cuts about a third off.
    assert 0.25 < float(areas.mean()) < 0.4


def test_probability_says_how_often():
    x, y = batch()
    share = {}
    for probability in (0.0, 0.5, 1.0):
        changed = [
            not torch.equal(cutmix(x, y, CLASSES, generator(0, "cutmix", index), probability)[0], x)
            for index in range(200)
        ]
        share[probability] = sum(changed) / 200
    assert share[0.0] == 0 and share[1.0] > 0.85
    assert share[0.5] == pytest.approx(share[1.0] / 2, abs=0.1)


def test_without_mixing_the_labels_are_one_hot():
    x, y = batch()
    same, probabilities = cutmix(x, y, CLASSES, generator(0, "cutmix"), 0.0)
    assert torch.equal(same, x)
    assert probabilities.dtype == x.dtype
    assert probabilities.tolist() == [[float(k == label) for k in range(CLASSES)] for label in y.tolist()]


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_probabilities_are_mixed_as_labels_are(probability):
    x, y = batch()
    one_hot = torch.nn.functional.one_hot(y, CLASSES).double()
    for index in range(6):
        hard, soft = (cutmix(x, given, CLASSES, generator(0, "cutmix", index), probability) for given in (y, one_hot))
        assert torch.equal(hard[0], soft[0]) and torch.equal(hard[1], soft[1])


def test_as_many_numbers_are_drawn_whether_it_mixes_or_not():
    x, y = batch()
    following = []
    for probability in (0.0, 1.0):
        draws = generator(0, "cutmix")
        cutmix(x, y, CLASSES, draws, probability)
        following.append(float(torch.rand((), generator=draws)))
    assert following[0] == following[1]


def test_differentiable_in_the_images():
    x, y = batch(3, (1, 4, 4))
    for index in range(4):
        assert torch.autograd.gradcheck(
            lambda x, index=index: cutmix(x, y, CLASSES, generator(0, "cutmix", index), 1.0)[0], (x.requires_grad_(),)
        )
