"""HLR, IOR, LRS and ARS: known points, ranges, monotonicity, and cases whose order the definitions fix."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condense.evaluation.scores import ars, hlr, ior, lrs

FRACTION = st.floats(0, 1)
LRS_NAMES = ("real_hard", "syn_hard", "syn_any", "rdm_any")
ARS_NAMES = ("syn_aug", "rdm_aug", "syn_naug", "rdm_naug")
RISING = {"syn_hard", "syn_any", "syn_aug", "syn_naug"}


def accuracies(names):
    return st.fixed_dictionaries(dict.fromkeys(names, FRACTION))


# known points


@pytest.mark.parametrize(
    ("alpha", "values"),
    [
        (-1, {"real_hard": 1, "syn_hard": 0, "syn_any": 0, "rdm_any": 1}),
        (1, {"real_hard": 0, "syn_hard": 1, "syn_any": 1, "rdm_any": 0}),
        (0, {"real_hard": 0.8, "syn_hard": 0.8, "syn_any": 0.3, "rdm_any": 0.3}),
        (0.5 * 0.2 - 0.5 * 0.4, {"real_hard": 0.8, "syn_hard": 0.4, "syn_any": 0.5, "rdm_any": 0.3}),
    ],
)
def test_lrs_at_known_points(alpha, values):
    assert lrs(**values) == pytest.approx((math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1)), abs=1e-12)


def test_the_ends_and_the_middle():
    worst = {"syn_aug": 0, "rdm_aug": 1, "syn_naug": 0, "rdm_naug": 1}
    assert ars(**worst) == pytest.approx(0, abs=1e-12)
    assert ars(**{name: 1 - value for name, value in worst.items()}) == pytest.approx(1, abs=1e-12)
    assert ars(**dict.fromkeys(ARS_NAMES, 0.4)) == pytest.approx(0.2689, abs=1e-4)
    assert lrs(**dict.fromkeys(LRS_NAMES, 0.4)) == pytest.approx(1 / (math.e + 1), abs=1e-12)


def test_hlr_and_ior_are_differences():
    assert hlr(0.8, 0.5) == pytest.approx(0.3) and hlr(0.5, 0.8) == pytest.approx(-0.3)
    assert ior(0.8, 0.5) == pytest.approx(0.3)


# properties


@given(FRACTION, FRACTION)
def test_differences_stay_within_one(a, b):
    assert -1 <= hlr(a, b) <= 1 and ior(a, b) == hlr(a, b) == -hlr(b, a)


@given(accuracies(LRS_NAMES), FRACTION)
def test_lrs_is_a_fraction(values, w):
    assert 0 <= lrs(**values, w=w) <= 1


@given(accuracies(ARS_NAMES), FRACTION)
def test_ars_is_a_fraction(values, gamma):
    assert 0 <= ars(**values, gamma=gamma) <= 1


@pytest.mark.parametrize("name", LRS_NAMES)
@given(accuracies(LRS_NAMES), FRACTION, FRACTION)
def test_lrs_rises_with_the_set_and_falls_with_what_it_is_compared_with(name, values, other, w):
    low, high = sorted((values[name], other))
    at_low, at_high = (lrs(**{**values, name: value}, w=w) for value in (low, high))
    assert at_low <= at_high + 1e-12 if name in RISING else at_high <= at_low + 1e-12


@pytest.mark.parametrize("name", ARS_NAMES)
@given(accuracies(ARS_NAMES), FRACTION, FRACTION)
def test_ars_rises_with_the_set_and_falls_with_random_images(name, values, other, gamma):
    low, high = sorted((values[name], other))
    at_low, at_high = (ars(**{**values, name: value}, gamma=gamma) for value in (low, high))
    assert at_low <= at_high + 1e-12 if name in RISING else at_high <= at_low + 1e-12


@given(accuracies(LRS_NAMES))
def test_the_weight_moves_between_the_two_differences(values):
    """w = 1 looks at random images alone, w = 0 at the full data alone."""
    only_random = lrs(**{**values, "real_hard": 0.5, "syn_hard": 0.5}, w=1)
    assert lrs(**values, w=1) == only_random
    only_full = lrs(**{**values, "syn_any": 0.5, "rdm_any": 0.5}, w=0)
    assert lrs(**values, w=0) == only_full


# three sets whose order is known


def test_labels_that_do_the_work_are_seen_through():
    """A: good images. B: as accurate as A, but by its soft labels, which help random images as much. C: random."""
    a = lrs(real_hard=0.85, syn_hard=0.65, syn_any=0.65, rdm_any=0.30)
    b = lrs(real_hard=0.85, syn_hard=0.35, syn_any=0.65, rdm_any=0.60)
    c = lrs(real_hard=0.85, syn_hard=0.30, syn_any=0.30, rdm_any=0.30)
    assert a > b > c


def test_augmentation_that_does_the_work_is_seen_through():
    """A: above random with and without it. B: above random with it alone. C: random, which gains as much by it."""
    a = ars(syn_aug=0.60, rdm_aug=0.35, syn_naug=0.55, rdm_naug=0.30)
    b = ars(syn_aug=0.60, rdm_aug=0.35, syn_naug=0.30, rdm_naug=0.30)
    c = ars(syn_aug=0.35, rdm_aug=0.35, syn_naug=0.30, rdm_naug=0.30)
    assert a > b > c


# what is no fraction is refused


@pytest.mark.parametrize("bad", [-0.01, 1.01, 64.3, float("nan"), float("inf")])
def test_percentages_and_worse_are_refused(bad):
    for name in LRS_NAMES:
        with pytest.raises(ValueError, match=rf"accuracy {name} = {bad}: must be a fraction"):
            lrs(**{**dict.fromkeys(LRS_NAMES, 0.5), name: bad})
    for name in ARS_NAMES:
        with pytest.raises(ValueError, match=rf"accuracy {name} = {bad}: must be a fraction"):
            ars(**{**dict.fromkeys(ARS_NAMES, 0.5), name: bad})
    with pytest.raises(ValueError, match=f"w = {bad}"):
        lrs(**dict.fromkeys(LRS_NAMES, 0.5), w=bad)
    with pytest.raises(ValueError, match=f"gamma = {bad}"):
        ars(**dict.fromkeys(ARS_NAMES, 0.5), gamma=bad)
    with pytest.raises(ValueError, match="syn_hard"):
        hlr(0.5, bad)
    with pytest.raises(ValueError, match="rdm_any"):
        ior(0.5, bad)
