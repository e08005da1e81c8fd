"""DSA's operators against pixel-by-pixel loops, their ranges, and the replay of a record."""

import numpy as np
import pytest
import torch
from oracles import dsa as oracle

from condense.augment import DSA, FULL_STRATEGY, OPERATIONS, Record, apply_groups
from condense.errors import ConfigError
from condense.rng import generator

SHAPES = [(3, 8, 8), (1, 9, 9), (2, 12, 7)]
ALMOST_ONE = 1 - 2**-24
"""The largest number that torch.rand gives in float32."""


def images(n, shape=(3, 8, 8)):
    return torch.randn(n, *shape, dtype=torch.float64, generator=generator(0, "images"))


def uniform(n):
    """n draws in float64, the corners of [0, 1)^3 among them."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, ALMOST_ONE], dtype=torch.float64)] * 3)
    return torch.cat([corners, torch.rand(n - 8, 3, dtype=torch.float64, generator=generator(1, "u"))])


def apply(name, x, u):
    return DSA(name).apply(x, Record(name, u))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operators_equal_the_oracle(name, shape):
    x, u = images(40, shape), uniform(40)
    before = x.clone()
    actual = apply(name, x, u)
    expected = [oracle.OPERATIONS[name](image.numpy(), numbers.tolist()) for image, numbers in zip(x, u, strict=True)]
    assert actual.shape == x.shape
    np.testing.assert_allclose(actual, np.stack(expected), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_single_precision_is_the_same_to_rounding(name):
    x, u = images(40), uniform(40).float()
    single, double = apply(name, x.float(), u), apply(name, x, u)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


# ranges, read off images whose transform is known in closed form


def draws(name, n=2000):
    record = DSA(name).sample(generator(2, name), n)
    return record, record.u


def ramps(n, side=9):
    """Two channels: the right and the down coordinate, -1 to 1. Bilinear interpolation is exact on them."""
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    return torch.stack([line.expand(side, side), line[:, None].expand(side, side)]).expand(n, 2, side, side)


def assert_uniform(values, low, high):
    """All within [low, high], the ends approached, and the quarters equally full."""
    values = np.asarray(values)
    width = high - low
    assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    assert values.min() < low + 0.01 * width and values.max() > high - 0.01 * width
    assert np.abs(np.histogram(values, 4, (low, high))[0] / len(values) - 0.25).max() < 0.05


def test_brightness_moves_a_grey_image_by_at_most_half_a_deviation():
    record, _ = draws("color")
    moved = DSA("color").apply(torch.full((2000, 3, 4, 4), 0.2, dtype=torch.float64), record)
    assert float((moved - moved[:, :1, :1, :1]).abs().max()) < 1e-12  # a constant image stays constant
    assert_uniform(moved[:, 0, 0, 0] - 0.2, -0.5, 0.5)


def test_contrast_and_saturation_ranges():
    """An image with mean 0: a grey pattern g times contrast, plus a colour c times contrast times saturation."""
    record, _ = draws("color")
    g = torch.tensor([1.0, -1.0]).double().view(1, 1, 1, 2)
    c = torch.tensor([1.0, 0.0, -1.0]).double().view(1, 3, 1, 1)
    out = DSA("color").apply((g + c).expand(2000, 3, 1, 2), record)
    contrast = (out[:, 1, 0, 0] - out[:, 1, 0, 1]) / 2
    saturated = (out[:, 0, 0, 0] - out[:, 2, 0, 0]) / 2
    assert_uniform(contrast, 0.5, 1.5)
    assert_uniform(saturated / contrast, 0.0, 2.0)


def test_saturation_is_the_identity_on_grey_images():
    u = uniform(20)
    one = images(20, (1, 8, 8))
    for x in (one, one.expand(20, 3, 8, 8)):
        other = u.clone()
        other[:, 1] = torch.rand(20, generator=generator(3, "u"))
        torch.testing.assert_close(apply("color", x, u), apply("color", x, other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("side", "most"), [(8, 1), (28, 4), (32, 4), (64, 8)])
def test_crop_shifts_by_every_whole_number_up_to_an_eighth(side, most):
    """Seen at one point in the middle, which no shift moves out."""
    record, _ = draws("crop")
    middle = side // 2
    x = torch.zeros(2000, 1, side, side)
    x[:, :, middle, middle] = 1
    places = DSA("crop").apply(x, record).flatten(1).argmax(1)
    for shifts in (middle - places // side, middle - places % side):
        counts = (shifts + most).bincount()
        assert len(counts) == 2 * most + 1 and counts.min() > 0.6 * 2000 / len(counts)


@pytest.mark.parametrize(("side", "length"), [(8, 4), (9, 5), (28, 14), (32, 16)])
def test_cutout_squares_have_their_centre_anywhere(side, length):
    record, _ = draws("cutout")
    covered = DSA("cutout").apply(torch.ones(2000, 1, side, side), record)[:, 0] == 0
    for axis in (1, 2):
        line = covered.any(3 - axis)
        first, count = line.int().argmax(1), line.sum(1)
        assert torch.equal(covered.sum((1, 2)) % count, torch.zeros(2000, dtype=torch.int64))  # a rectangle
        whole, half = count == length, length // 2
        assert count.max() == length and count.min() == half + length % 2
        assert (first[~whole].eq(0) | (first + count)[~whole].eq(side)).all()  # only the border cuts
        centres = torch.where(first > 0, first + half, count - (length - half))
        counts = centres.bincount()
        assert len(counts) == side + 1 - length % 2 and counts.min() > 0.4 * 2000 / len(counts)


def test_half_of_the_images_are_flipped():
    record, _ = draws("flip")
    flipped = DSA("flip").apply(torch.tensor([0.0, 1.0]).expand(2000, 1, 1, 2), record)[:, 0, 0, 0]
    assert set(flipped.tolist()) == {0.0, 1.0} and 0.45 < float(flipped.mean()) < 0.55


def test_scales_are_independent_and_within_a_factor_of_1_2():
    record, _ = draws("scale")
    out = DSA("scale").apply(ramps(2000), record)
    right, down = out[:, 0, 4, 5] / 0.25, out[:, 1, 5, 4] / 0.25
    for factors in (right, down):
        assert_uniform(factors, 1 / 1.2, 1.2)
    assert abs(np.corrcoef(right, down)[0, 1]) < 0.1


def test_rotations_turn_by_at_most_15_degrees_about_the_centre():
    record, _ = draws("rotate")
    out = DSA("rotate").apply(ramps(2000), record)
    assert float(out[:, :, 4, 4].abs().max()) < 1e-12
    right, down = out[:, 0, 4, 5] / 0.25, out[:, 1, 4, 5] / 0.25
    torch.testing.assert_close(right.hypot(down), torch.ones(2000).double(), rtol=1e-6, atol=0)
    assert_uniform(torch.atan2(down, right).rad2deg(), -15, 15)


@pytest.mark.parametrize(("name", "u"), [("color", (0.5, 0.5, 0.5)), ("crop", (0.5, 0.5, 0)), ("rotate", (0.5, 0, 0))])
def test_the_middle_of_the_range_is_the_identity(name, u):
    x = images(4)
    torch.testing.assert_close(apply(name, x, torch.tensor([u])), x, rtol=1e-12, atol=1e-12)


def test_scaling_by_one_is_the_identity():
    u = (1 - 1 / 1.2) / (1.2 - 1 / 1.2)
    x = images(4)
    torch.testing.assert_close(apply("scale", x, torch.full((1, 3), u, dtype=torch.float64)), x, rtol=1e-12, atol=1e-12)


# drawing


def test_one_operator_for_the_batch_drawn_evenly():
    augmentation = DSA(FULL_STRATEGY)
    counts = dict.fromkeys(OPERATIONS, 0)
    for index in range(1200):
        record = augmentation.sample(generator(0, "operator", index), 3)
        assert record.u.shape == (3, 3)
        counts[record.operation] += 1
    assert sum(counts.values()) == 1200 and min(counts.values()) > 150


def test_a_strategy_draws_its_own_operators_only():
    augmentation = DSA("crop_cutout")
    drawn = {augmentation.sample(generator(0, "operator", index), 1).operation for index in range(50)}
    assert drawn == {"crop", "cutout"}


def test_parameters_are_drawn_for_each_image():
    record = DSA("rotate").sample(generator(0, "u"), 500)
    assert len(record.u[:, 0].unique()) == 500
    assert float(record.u.min()) >= 0 and float(record.u.max()) < 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_shared_record_is_the_same_transform_for_any_batch(name):
    augmentation = DSA(name)
    x = images(7)
    for index in range(10):
        record = augmentation.sample(generator(0, "shared", index), 256, shared=True)
        assert torch.equal(record.u, augmentation.sample(generator(0, "shared", index), 2, shared=True).u)
        whole = augmentation.apply(x, record)
        for part in (x[:1], x[2:5]):
            first = 0 if len(part) == 1 else 2
            torch.testing.assert_close(
                augmentation.apply(part, record), whole[first : first + len(part)], rtol=1e-12, atol=1e-12
            )
        copies = augmentation.apply(x[:1].expand(4, -1, -1, -1), record)
        torch.testing.assert_close(copies, whole[:1].expand(4, -1, -1, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPERATIONS)
def test_replay_gives_the_same_bits(name):
    augmentation, x = DSA(name), images(6)
    record = augmentation.sample(generator(4, "draw"), 6)
    once = augmentation.apply(x, record)
    assert torch.equal(augmentation.apply(x, record), once)
    assert torch.equal(DSA(name).augment(x, generator(4, "draw")), once)
    assert not torch.equal(augmentation.augment(x, generator(5, "draw")), once)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    for index in range(30):
        DSA(FULL_STRATEGY).augment(images(3), generator(0, "draw", index))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("strategy", ["none", ""])
def test_no_strategy_is_the_identity(strategy):
    augmentation, x = DSA(strategy), images(3)
    for shared in (False, True):
        assert torch.equal(augmentation.apply(x, augmentation.sample(generator(0, "draw"), 3, shared=shared)), x)
    assert torch.equal(augmentation.augment(x, generator(0, "draw")), x)


def test_the_full_strategy_has_all_operators():
    assert DSA().operations == tuple(OPERATIONS) == tuple(FULL_STRATEGY.split("_")) == tuple(oracle.OPERATIONS)


@pytest.mark.parametrize("strategy", ["color_flipp", "color__flip", "flip_", "Color", "color crop"])
def test_an_unknown_operator_is_refused(strategy):
    with pytest.raises(ConfigError, match="unknown operator") as caught:
        DSA(strategy)
    assert repr(strategy) in str(caught.value) and "cutout" in str(caught.value)
    assert ("Did you mean 'flip'" in str(caught.value)) == (strategy == "color_flipp")


# derivatives


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_differentiable_in_the_images(name, shared):
    """Every entry of the Jacobian by finite differences."""
    record = DSA(name).sample(generator(6, "draw"), 3, shared=shared)
    x = images(3, (2, 5, 5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: DSA(name).apply(x, record), (x,))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_image_depends_on_itself_alone(name):
    x = images(3).requires_grad_()
    record = DSA(name).sample(generator(6, "draw"), 3)
    (gradient,) = torch.autograd.grad(DSA(name).apply(x, record)[1].sum(), x)
    assert gradient[0].count_nonzero() == gradient[2].count_nonzero() == 0 < gradient[1].count_nonzero()


# one record for each group


def groups_by_loop(x, records, augmentation=None):
    augmentation = augmentation or DSA(FULL_STRATEGY)
    return torch.stack([augmentation.apply(group, record) for group, record in zip(x, records, strict=True)])


def test_groups_draw_shared_records_of_their_own():
    records = DSA(FULL_STRATEGY).sample_groups(generator(0, "groups"), 200)
    assert len(records) == 200 and {record.operation for record in records} == set(OPERATIONS)
    assert all(record.u.shape == (1, 3) for record in records)
    assert len({tuple(record.u[0].tolist()) for record in records}) == 200


def test_groups_are_drawn_one_after_another():
    draws = generator(0, "groups")
    one_by_one = [DSA(FULL_STRATEGY).sample(draws, 1, shared=True) for _ in range(5)]
    records = DSA(FULL_STRATEGY).sample_groups(generator(0, "groups"), 5)
    assert [record.operation for record in records] == [record.operation for record in one_by_one]
    assert all(torch.equal(a.u, b.u) for a, b in zip(records, one_by_one, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_groups_of_one_operator_equal_the_loop_over_groups(name, shape):
    x = images(15, shape).unflatten(0, (5, 3))
    records = DSA(name).sample_groups(generator(7, name), 5)
    grouped = apply_groups(x, records)
    assert grouped.shape == x.shape
    torch.testing.assert_close(grouped, groups_by_loop(x, records), rtol=1e-12, atol=1e-12)


def test_groups_of_mixed_operators_keep_their_places():
    x = images(16).unflatten(0, (8, 2))
    u = torch.rand(8, 1, 3, generator=generator(7, "u"))
    names = ["flip", "rotate", "none", "crop", "flip", "color", "none", "scale"]
    records = [Record(name, numbers) for name, numbers in zip(names, u, strict=True)]
    before = x.clone()
    grouped = apply_groups(x, records)
    torch.testing.assert_close(grouped, groups_by_loop(x, records), rtol=1e-12, atol=1e-12)
    assert torch.equal(grouped[2], x[2]) and torch.equal(grouped[6], x[6])
    assert torch.equal(x, before)


def test_all_images_of_a_group_get_the_transform_of_their_group():
    """Against the oracle, with nothing but the group's three numbers."""
    x = images(12).unflatten(0, (6, 2))
    u = torch.rand(6, 1, 3, dtype=torch.float64, generator=generator(8, "u"))
    records = [Record(name, numbers) for name, numbers in zip(OPERATIONS, u, strict=True)]
    for group, record, transformed in zip(x, records, apply_groups(x, records), strict=True):
        for image, result in zip(group, transformed, strict=True):
            expected = oracle.OPERATIONS[record.operation](image.numpy(), record.u[0].tolist())
            np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_two_sets_of_other_sizes_get_the_same_transforms():
    """What siamese means: real and synthetic images of a class, one record."""
    real, synthetic = images(20).unflatten(0, (4, 5)), images(4).unflatten(0, (4, 1))
    records = DSA(FULL_STRATEGY).sample_groups(generator(9, "groups"), 4)
    together = apply_groups(torch.cat([real, synthetic], 1), records)
    torch.testing.assert_close(together[:, :5], apply_groups(real, records), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together[:, 5:], apply_groups(synthetic, records), rtol=1e-12, atol=1e-12)


def test_groups_without_a_strategy_stay():
    x = images(6).unflatten(0, (3, 2))
    assert torch.equal(apply_groups(x, DSA("none").sample_groups(generator(0, "groups"), 3)), x)


def test_groups_are_differentiable_and_apart():
    x = images(6, (2, 5, 5)).unflatten(0, (3, 2)).requires_grad_()
    u = torch.rand(3, 1, 3, generator=generator(10, "u"))
    records = [Record(name, numbers) for name, numbers in zip(("color", "rotate", "color"), u, strict=True)]
    assert torch.autograd.gradcheck(lambda x: apply_groups(x, records), (x,))
    (gradient,) = torch.autograd.grad(apply_groups(x, records)[2, 1].square().sum(), x)
    touched = gradient.flatten(2).any(2)
    assert torch.equal(touched, torch.tensor([[False, False], [False, False], [False, True]]))
