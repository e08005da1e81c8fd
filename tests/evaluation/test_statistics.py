import numpy as np
import pytest

from condense.evaluation import paired_difference, summary


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (5, 2.776), (20, 2.093)])  # two-sided 95 %, from a printed table
def test_interval_is_students_t(n, t):
    values = np.random.default_rng(0).uniform(0.4, 0.6, n)
    mean, half = summary(values.tolist())
    assert mean == pytest.approx(values.mean(), rel=1e-14)
    assert half == pytest.approx(t * values.std(ddof=1) / n**0.5, rel=2e-4)


def test_one_value_has_no_interval():
    assert summary([0.25]) == (0.25, None)


def test_equal_values_have_an_interval_of_zero():
    assert summary([0.5, 0.5, 0.5]) == (0.5, 0.0)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no values"):
        summary([])


def test_pairing_removes_what_both_share():
    shared = np.array([0.1, 0.5, 0.9])
    mean, half = paired_difference((shared + 0.0625).tolist(), shared.tolist())
    assert mean == pytest.approx(0.0625)
    assert half == pytest.approx(0, abs=1e-12)
    assert paired_difference([1.0, 0.0], [0.0, 1.0])[0] == 0


def test_pairs_must_match():
    with pytest.raises(ValueError, match="zip"):
        paired_difference([0.1, 0.2], [0.1])
