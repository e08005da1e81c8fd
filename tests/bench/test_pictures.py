"""The small picture of a set, read back."""

from base64 import b64decode
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from condense.bench.pictures import CLASSES, IMAGES, LARGEST, picture
from condense.data import Preprocessing
from condense.synthetic import DistilledSet

PREPROCESSING = Preprocessing("mean_std", {"mean": torch.tensor([0.5]), "std": torch.tensor([0.25])})


def read(images, labels, classes, compensators=None):
    artifact = SimpleNamespace(
        stored=DistilledSet(PREPROCESSING(images), labels, compensators=compensators),
        preprocessing=PREPROCESSING,
        classes=tuple("abc" * classes)[:classes],
    )
    uri, width, height = picture(artifact)
    shown = Image.open(BytesIO(b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert shown.size == (width, height) and shown.mode == "RGBA"
    return np.asarray(shown)


def test_each_pixel_is_one_pixel_and_each_class_a_column():
    images = torch.rand(4, 1, 5, 5)
    shown = read(images, torch.tensor([1, 0, 1, 0]), 2)
    assert shown.shape[:2] == (11, 11)
    for place, (row, column) in {0: (0, 1), 1: (0, 0), 2: (1, 1), 3: (1, 0)}.items():
        tile = shown[6 * row : 6 * row + 5, 6 * column : 6 * column + 5]
        assert abs(tile[..., 0] / 255 - images[place, 0].numpy()).max() <= 0.5 / 255 + 1e-6
        assert (tile[..., 3] == 255).all()
    assert (shown[5] == 0).all() and (shown[:, 5] == 0).all()  # the gaps are transparent


def test_soft_labels_and_values_that_cannot_be_seen():
    images = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    shown = read(images, torch.tensor([[0.1, 0.9], [0.8, 0.2]]), 2)
    assert (shown[:, :4, 0] == 0).all() and (shown[:, 5:, 0] == 255).all()


def test_labels_of_images_that_compensators_make_are_not_shown():
    images, compensators = torch.rand(4, 1, 5, 5), torch.rand(2, 3, 1, 5, 5)
    shown = read(images, torch.tensor([0, 0, 1, 1]).repeat_interleave(4), 2, compensators)
    assert np.array_equal(shown, read(images, torch.tensor([0, 0, 1, 1]), 2))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_large_sets_and_images_stay_small(channels):
    labels = torch.arange(25).repeat(20)
    preprocessing = Preprocessing("mean_std", {"mean": torch.zeros(channels), "std": torch.ones(channels)})
    stored = DistilledSet(torch.rand(500, channels, 100, 100), labels)
    artifact = SimpleNamespace(stored=stored, preprocessing=preprocessing, classes=tuple(map(str, range(25))))
    _, width, height = picture(artifact)
    assert (width, height) == (CLASSES * (LARGEST + 1) - 1, IMAGES * (LARGEST + 1) - 1)
