"""Where a synthetic set starts."""

import pytest
import torch

from condense.data import Preprocessing, Split
from condense.rng import generator
from condense.synthetic import INITIAL, hard_labels, initial_images, sample_per_class

CLASSES = 3
LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1, 2])
"""3, 3 and 4 images."""
SPLIT = Split(torch.randint(256, (10, 2, 4, 4), generator=generator(0, "images"), dtype=torch.uint8), LABELS)
PREPROCESSING = Preprocessing("mean_std", {"mean": torch.tensor([0.4, 0.5]), "std": torch.tensor([0.2, 0.3])})


def initial(kind, ipc=2, split=SPLIT, index=0):
    draws = generator(0, "init", index)
    return initial_images(kind, split, PREPROCESSING, classes=CLASSES, ipc=ipc, draws=draws)


def test_labels_go_class_by_class():
    labels = hard_labels(3, 2, torch.device("cpu"))
    assert labels.dtype == torch.int64 and labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_are_different_ones_of_each_class(count):
    seen = set()
    for index in range(40):
        rows = sample_per_class(LABELS, CLASSES, count, generator(0, "rows", index))
        assert torch.equal(LABELS[rows], hard_labels(CLASSES, count, rows.device))
        assert len(rows.unique()) == CLASSES * count
        seen |= set(rows.tolist())
    assert seen == set(range(10))


def test_more_rows_than_a_class_has_is_our_own_mistake():
    with pytest.raises(AssertionError, match="class 0 has 3 images, 4 wanted"):
        sample_per_class(LABELS, CLASSES, 4, generator(0, "rows"))


def test_real_images_are_preprocessed_training_images():
    rows = sample_per_class(LABELS, CLASSES, 2, generator(0, "init"))
    mean, std = (PREPROCESSING.values[name].view(2, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(initial("real"), (SPLIT.images[rows] / 255 - mean) / std)


def test_noise_is_standard_normal_whatever_the_images():
    black = Split(torch.zeros_like(SPLIT.images), LABELS)
    noise = initial("noise", ipc=300)
    assert noise.shape == (900, 2, 4, 4) and noise.dtype == torch.float32
    assert torch.equal(initial("noise", ipc=300, split=black), noise)
    for power, moment in enumerate([0, 1, 0, 3], 1):
        assert float((noise**power).mean()) == pytest.approx(moment, abs=0.1)


@pytest.mark.parametrize("kind", INITIAL)
def test_the_draws_alone_decide(kind):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = initial(kind)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(initial(kind), first)
    assert not torch.equal(initial(kind, index=1), first)
