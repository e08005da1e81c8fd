"""Mosaics and mirror images against pixel-by-pixel loops, and what they do to gradients."""

import math

import pytest
import torch

from condense.rng import generator
from condense.synthetic import DistilledSet, compensated, decode, encode, with_mirror

SIDES = [5, 8, 28, 32]
FACTORS = [1, 2, 3, 4]


def draw(*shape, index=0):
    return torch.randn(shape, dtype=torch.float64, generator=generator(0, "images", index))


def cuts(side, factor):
    """First and last + 1 pixel of each cell: as even as can be, the first ones longer."""
    lengths = [side // factor + (1 if k < side % factor else 0) for k in range(factor)]
    return [(sum(lengths[:k]), sum(lengths[: k + 1])) for k in range(factor)]


def weights(short, long):
    """[long, short]: bilinear enlargement of a line. Pixel i lies at (i + 1/2) short / long - 1/2, within the line."""
    matrix = torch.zeros(long, short, dtype=torch.float64)
    for i in range(long):
        place = min(max((i + 0.5) * short / long - 0.5, 0), short - 1)
        left = min(math.floor(place), short - 1)
        right = min(left + 1, short - 1)
        matrix[i, left] += 1 - (place - left)
        matrix[i, right] += place - left
    return matrix


def decode_by_loops(stored, factor):
    """Image by image, cell by cell."""
    images = []
    for mosaic in stored:
        for top, bottom in cuts(mosaic.shape[1], factor):
            for left, right in cuts(mosaic.shape[2], factor):
                cell = mosaic[:, top:bottom, left:right]
                down = weights(bottom - top, mosaic.shape[1])
                across = weights(right - left, mosaic.shape[2])
                images.append(torch.stack([down @ channel @ across.T for channel in cell]))
    return torch.stack(images)


def encode_by_loops(images, factor):
    """Each pixel of a cell is the mean of all pixels it touches: rows i H / h to (i + 1) H / h, rounded outwards."""
    mosaics = []
    for first in range(0, len(images), factor**2):
        mosaic = torch.zeros_like(images[0])
        _, height, width = mosaic.shape
        cells = [(rows, columns) for rows in cuts(height, factor) for columns in cuts(width, factor)]
        for image, ((top, bottom), (left, right)) in zip(images[first : first + factor**2], cells, strict=True):
            h, w = bottom - top, right - left
            for i in range(h):
                for j in range(w):
                    rows = slice(i * height // h, math.ceil((i + 1) * height / h))
                    columns = slice(j * width // w, math.ceil((j + 1) * width / w))
                    mosaic[:, top + i, left + j] = image[:, rows, columns].mean((1, 2))
        mosaics.append(mosaic)
    return torch.stack(mosaics)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("side", SIDES)
def test_decode_equals_the_loops(side, factor):
    stored = draw(2, 3, side, side)
    decoded = decode(stored, factor)
    assert decoded.shape == (2 * factor**2, 3, side, side)
    torch.testing.assert_close(decoded, decode_by_loops(stored, factor), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("side", SIDES)
def test_encode_equals_the_loops(side, factor):
    images = draw(2 * factor**2, 2, side, side)
    encoded = encode(images, factor)
    assert encoded.shape == (2, 2, side, side)
    torch.testing.assert_close(encoded, encode_by_loops(images, factor), rtol=1e-12, atol=1e-12)


def test_images_that_are_not_square():
    stored = draw(2, 1, 6, 9)
    torch.testing.assert_close(decode(stored, 2), decode_by_loops(stored, 2), rtol=1e-12, atol=1e-12)
    images = draw(8, 1, 6, 9)
    torch.testing.assert_close(encode(images, 2), encode_by_loops(images, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("side", SIDES)
def test_constant_images_survive_the_round_trip_in_their_order(side, factor):
    """The images of mosaic i are rows i factor^2 and on, cells row by row."""
    colours = draw(3 * factor**2, 2, 1, 1)
    images = colours.expand(-1, -1, side, side)
    mosaics = encode(images, factor)
    torch.testing.assert_close(decode(mosaics, factor), images, rtol=1e-12, atol=1e-12)
    if factor > 1:
        corner = mosaics[1, :, 0, -1]
        torch.testing.assert_close(corner, colours[factor**2 + factor - 1, :, 0, 0], rtol=1e-12, atol=1e-12)


def test_factor_one_changes_no_bit():
    images = draw(4, 3, 8, 8)
    assert torch.equal(decode(images, 1), images) and torch.equal(encode(images, 1), images)


@pytest.mark.parametrize("factor", [2, 3])
def test_both_are_linear(factor):
    for function, count in ((decode, 2), (encode, 2 * factor**2)):
        a, b = draw(count, 1, 8, 8), draw(count, 1, 8, 8, index=1)
        together = function(2.5 * a - 0.5 * b, factor)
        apart = 2.5 * function(a, factor) - 0.5 * function(b, factor)
        torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("side", [5, 8])
def test_the_gradient_goes_back_through_decode(side, factor):
    """<g, decode(v)> = <decode^T g, v>, with decode^T from autograd and the left side from the loops."""
    stored = draw(2, 1, side, side).requires_grad_()
    g, v = draw(2 * factor**2, 1, side, side, index=1), draw(2, 1, side, side, index=2)
    (back,) = torch.autograd.grad(decode(stored, factor), stored, g)
    assert float((back * v).sum()) == pytest.approx(float((g * decode_by_loops(v, factor)).sum()), rel=1e-10)


def test_every_image_hangs_on_its_own_cell_alone():
    stored = draw(2, 1, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(decode(stored, 2)[6].sum(), stored)  # the third cell of the second mosaic
    expected = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    expected[1, :, 4:, :4] = True
    assert torch.equal(gradient != 0, expected)


def test_mirror_images_follow_their_images():
    images = draw(3, 2, 4, 5)
    both = with_mirror(images)
    assert both.shape == (6, 2, 4, 5)
    for i, image in enumerate(images):
        assert torch.equal(both[2 * i], image)
        for column in range(5):
            assert torch.equal(both[2 * i + 1][:, :, column], image[:, :, 4 - column])


def test_a_distilled_set_is_decoded_with_its_labels():
    stored = draw(2, 1, 8, 8)
    for labels in (torch.tensor([4, 7]), torch.tensor([[0.2, 0.8], [0.5, 0.5]])):
        made = DistilledSet(stored, labels, lr=0.3, factor=2).decoded()
        torch.testing.assert_close(made.images, decode_by_loops(stored, 2), rtol=1e-12, atol=1e-12)
        assert made.labels.tolist() == [labels.tolist()[i // 4] for i in range(8)]
        assert (made.lr, made.factor, len(made)) == (0.3, 1, 8)
    plain = DistilledSet(stored, torch.tensor([4, 7]))
    assert torch.equal(plain.decoded().images, stored)


@pytest.mark.parametrize("groups, of_each, classes", [(1, 1, 2), (2, 3, 4), (3, 1, 1)])
def test_compensated_by_loops(groups, of_each, classes):
    """Images class by class; the difference from an image is that of its group, in every class."""
    images = draw(classes * groups, 2, 3, 5)
    compensators = draw(groups, of_each, 2, 3, 5, index=1)
    rows = []
    for c in range(classes):
        for k in range(groups):
            rows.append(images[c * groups + k])
            rows += [images[c * groups + k] + compensators[k, j] for j in range(of_each)]
    assert torch.equal(compensated(images, compensators), torch.stack(rows))


def test_a_set_with_compensators_has_a_label_for_each_image():
    images, compensators, labels = draw(4, 1, 3, 3), draw(2, 2, 1, 3, 3), torch.arange(12)
    made = DistilledSet(images, labels, 0.5, compensators=compensators)
    decoded = made.decoded()
    assert len(made) == 4 and len(decoded) == 12 and decoded.lr == 0.5
    assert torch.equal(decoded.labels, labels) and decoded.compensators is None
