"""Where a synthetic set starts."""

from typing import get_args

import pytest
import torch

from condense.data import Preprocessing, Split
from condense.errors import ConfigError
from condense.rng import generator
from condense.synthetic import (
    class_members,
    hard_labels,
    initial_images,
    nearest_to_centres,
    sample_per_class,
)
from condense.synthetic.initial import MEAN_OF, Initial

CLASSES = 3
LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1, 2])
"""3, 3 and 4 images."""
MEMBERS = class_members(LABELS, CLASSES)
SPLIT = Split(torch.randint(256, (10, 2, 4, 4), generator=generator(0, "images"), dtype=torch.uint8), LABELS)
PREPROCESSING = Preprocessing("mean_std", {"mean": torch.tensor([0.4, 0.5]), "std": torch.tensor([0.2, 0.3])})


def initial(kind, ipc=2, split=SPLIT, index=0):
    draws = generator(0, "init", index)
    return initial_images(kind, split, PREPROCESSING, classes=CLASSES, ipc=ipc, draws=draws)


def preprocessed(rows=slice(None)):
    mean, std = (PREPROCESSING.values[name].view(2, 1, 1) for name in ("mean", "std"))
    return (SPLIT.images[rows] / 255 - mean) / std


def test_labels_go_class_by_class():
    labels = hard_labels(3, 2, torch.device("cpu"))
    assert labels.dtype == torch.int64 and labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_members_are_the_rows_of_each_class():
    assert [members.tolist() for members in MEMBERS] == [[1, 4, 7], [2, 3, 8], [0, 5, 6, 9]]
    assert class_members(LABELS, 4)[3].tolist() == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_are_different_ones_of_each_class(count):
    seen = set()
    for index in range(40):
        rows = sample_per_class(MEMBERS, count, generator(0, "rows", index))
        assert torch.equal(LABELS[rows], hard_labels(CLASSES, count, rows.device))
        assert len(rows.unique()) == CLASSES * count
        seen |= set(rows.tolist())
    assert seen == set(range(10))


@pytest.mark.parametrize("count", [4, 5, 9, 12])
def test_a_class_with_too_few_images_gives_each_as_often_as_the_others_or_once_more(count):
    again = set()
    for index in range(20):
        rows = sample_per_class(MEMBERS, count, generator(0, "rows", index)).view(CLASSES, count)
        for members, of_class in zip(MEMBERS, rows, strict=True):
            times = [int((of_class == member).sum()) for member in members]
            assert sum(times) == count and max(times) - min(times) <= 1
            again |= {int(member) for member, n in zip(members, times, strict=True) if n == max(times)}
    assert again == set(range(10)), "chance decides which image comes once more"


def test_real_images_are_preprocessed_training_images():
    rows = sample_per_class(MEMBERS, 2, generator(0, "init"))
    torch.testing.assert_close(initial("real"), preprocessed(rows))


def test_noise_is_standard_normal_whatever_the_images():
    black = Split(torch.zeros_like(SPLIT.images), LABELS)
    noise = initial("noise", ipc=300)
    assert noise.shape == (900, 2, 4, 4) and noise.dtype == torch.float32
    assert torch.equal(initial("noise", ipc=300, split=black), noise)
    for power, moment in enumerate([0, 1, 0, 3], 1):
        assert float((noise**power).mean()) == pytest.approx(moment, abs=0.1)


def test_a_mean_is_of_so_many_images_of_its_class():
    """Classes of one colour each, apart from one image that shows how often it was drawn."""
    labels = torch.arange(3).repeat_interleave(20)
    images = (50 * labels).to(torch.uint8).view(60, 1, 1, 1).repeat(1, 2, 4, 4)
    images[25] += 100
    means = PREPROCESSING.inverse(initial("mean", ipc=30, split=Split(images, labels))) * 255
    assert means.shape == (90, 2, 4, 4)
    torch.testing.assert_close(means[:30], torch.zeros(30, 2, 4, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(means[60:], torch.full((30, 2, 4, 4), 100.0), atol=1e-3, rtol=0)
    drawn = ((means[30:60, 0, 0, 0] - 50) / (100 / MEAN_OF)).round(decimals=3)
    assert set(drawn.tolist()) == {0.0, 1.0}, "in some means and not in others, and never twice in one"


def test_a_mean_of_a_small_class_uses_its_images_again():
    """3 images in a mean of 10: each 3 or 4 times."""
    members = preprocessed(MEMBERS[0])
    for mean in initial("mean", ipc=4)[:4]:
        weights = torch.linalg.lstsq(members.flatten(1).T, mean.flatten()[:, None]).solution.flatten()
        assert sorted((MEAN_OF * weights).round(decimals=3).tolist()) == [3, 3, 4]


def test_kmeans_starts_from_one_image_of_each_cluster():
    """Each class is two far groups of brightness; the image in the middle of a group is its nearest to the centre."""
    levels = torch.tensor([10, 14, 18, 210, 215, 220])
    labels = torch.arange(3).repeat_interleave(6)
    images = (levels.repeat(3) + 5 * labels).to(torch.uint8).view(18, 1, 1, 1).repeat(1, 2, 4, 4)
    start = PREPROCESSING.inverse(initial("kmeans", split=Split(images, labels)))[:, 0, 0, 0] * 255
    pairs = [sorted(pair) for pair in start.round().view(3, 2).tolist()]
    assert pairs == [[14, 215], [19, 220], [24, 225]]


def test_kmeans_counts_distances_of_preprocessed_pixels():
    """Two channels that both split a class in two: the one with the small deviation is the one that counts."""
    images = torch.zeros(4, 2, 1, 1, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor([100, 110, 100, 110])
    images[:, 1, 0, 0] = torch.tensor([0, 0, 100, 100])
    stds = {0: [1e-3, 10.0], 1: [10.0, 1e-3]}
    for channel, std in stds.items():
        fit = Preprocessing("mean_std", {"mean": torch.zeros(2), "std": torch.tensor(std)})
        split = Split(images, torch.zeros(4, dtype=torch.int64))
        start = fit.inverse(initial_images("kmeans", split, fit, classes=1, ipc=2, draws=generator(0, "init")))
        values = (start[:, channel, 0, 0] * 255).round().tolist()
        assert len(set(values)) == 2, "one image from either side"


def test_kmeans_wants_as_many_images_as_it_is_to_choose():
    with pytest.raises(ConfigError, match=r"init = 'kmeans': 4 .* class 0 has 3.*init = 'real'"):
        initial("kmeans", ipc=4)


def test_nearest_to_centres_takes_no_row_twice():
    """All points but one are the same: the centres coincide, or nearly."""
    points = torch.zeros(6, 2)
    points[3] = 1
    chosen = nearest_to_centres(points, 2, 0)
    assert len(set(chosen.tolist())) == 2 and 3 in chosen.tolist()


@pytest.mark.parametrize("kind", get_args(Initial))
def test_the_draws_alone_decide(kind):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = initial(kind)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(initial(kind), first)
    assert kind == "kmeans" or not torch.equal(initial(kind, index=1), first)


@pytest.mark.parametrize("kind", ["real", "mean", "kmeans"])
def test_images_come_class_by_class(kind):
    """Class c is dark, grey or bright, give or take a little."""
    labels = torch.arange(30) % 3
    noise = torch.randint(20, (30, 2, 4, 4), generator=generator(0, "noise"))
    split = Split((100 * labels.view(30, 1, 1, 1) + noise).to(torch.uint8), labels)
    start = PREPROCESSING.inverse(initial(kind, ipc=4, split=split)) * 255
    assert (start.mean((1, 2, 3)) / 100).floor().tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
