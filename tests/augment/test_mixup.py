"""MixUp by hand, and the distribution of its lambda."""

import pytest
import torch

from condense.augment import mixup
from condense.rng import generator

N, CLASSES = 6, 4
X, Y = torch.randn(N, 2, 5, 5, dtype=torch.float64, generator=generator(0, "images")), torch.arange(N) % CLASSES
ONE_HOT = torch.eye(CLASSES, dtype=torch.float64)[Y]


def mixed(index, y=Y, x=X, alpha=0.8):
    return mixup(x, y, CLASSES, generator(1, "mixup", index), alpha)


def test_images_and_labels_are_averaged_with_one_lambda_and_one_permutation():
    """Of images of one pixel, which are their numbers, the pairs can be read off."""
    x = 10.0 ** torch.arange(N, dtype=torch.float64).view(N, 1, 1, 1)
    for index in range(8):
        made, labels = mixed(index, torch.eye(N, dtype=torch.float64), x)
        weights = labels.clone()
        share = float(weights.diagonal().min())
        others = [int(j) for j in (weights - share * torch.eye(N)).argmax(1)]
        assert sorted(others) == list(range(N))
        expected = share * x + (1 - share) * x[others]
        torch.testing.assert_close(made, expected)
        torch.testing.assert_close(labels.sum(1), torch.ones(N, dtype=torch.float64))


def test_labels_are_mixed_as_one_hot_rows_and_logits_as_they_are():
    logits = torch.randn(N, CLASSES, dtype=torch.float64, generator=generator(0, "logits"))
    for index in range(4):
        assert torch.equal(mixed(index)[1], mixed(index, ONE_HOT)[1])
        both = mixed(index, ONE_HOT + 2 * logits)[1]
        torch.testing.assert_close(both, mixed(index, ONE_HOT)[1] + 2 * mixed(index, logits)[1])


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_lambda_has_the_moments_of_its_beta(alpha):
    shares = torch.tensor([float(mixed(k, torch.eye(2), X[:2], alpha)[1][0, 0]) for k in range(3000)])
    shares = torch.where(shares == 1, torch.nan, shares)  # an image may be its own partner
    shares = shares[shares.isfinite()].double()
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / 4 / (2 * alpha + 1), abs=0.01)
