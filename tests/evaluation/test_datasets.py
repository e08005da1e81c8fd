import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from condense import evaluation
from condense.errors import DataError
from condense.evaluation import TrainingSet, as_test_set, as_training_set

IMAGES = torch.rand(5, 1, 4, 4, dtype=torch.float64)


class Items(Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([0, 1, 2, 1, 0], torch.int64),
        (np.array([0, 1, 2, 1, 0], np.uint8), torch.int64),
        (torch.tensor([0, 1, 2, 1, 0], dtype=torch.int32), torch.int64),
        ([[0.25, 0.75]] * 5, torch.float32),
        (torch.full((5, 2), 0.5, dtype=torch.float64), torch.float32),
    ],
)
def test_items_become_tensors(labels, dtype):
    made = as_training_set(Items(*zip(IMAGES, labels, strict=True)))
    assert torch.equal(made.images, IMAGES.float()) and made.labels.dtype == dtype
    assert made.labels.tolist() == torch.as_tensor(np.asarray(labels)).tolist()
    made.check("training set", 3 if dtype == torch.int64 else 2)


def test_sets_of_the_package_are_taken_as_they_are():
    training = TrainingSet(IMAGES, torch.zeros(5, dtype=torch.int64), lr=0.1)
    test = evaluation.TestSet(IMAGES, torch.zeros(5, dtype=torch.int64))
    assert as_training_set(training) is training and as_test_set(test, "test set") is test


def test_a_dataset_is_read_once():
    reads = []

    class Counted(TensorDataset):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    as_test_set(Counted(IMAGES, torch.arange(5)), "test set")
    assert reads == [0, 1, 2, 3, 4]


class Endless(IterableDataset):
    def __iter__(self):
        yield IMAGES[0], 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(IMAGES[0], 0)], "a list is no torch Dataset"),
        (Endless(), "a Endless is no torch Dataset with a length"),
        (Items(), "it is empty"),
        (Items(IMAGES[0]), r"item 0 is torch.float64 \[1, 4, 4\]; it must be \(image, label\)"),
        (Items((IMAGES[0], 0), (IMAGES[0], 0, 1)), "item 1 is tuple"),
        (Items((np.zeros((4, 4)), 0)), r"image 0 is ndarray; it must be a float tensor \[ch, size, size\]"),
        (Items((IMAGES[0].byte(), 0)), "image 0 is torch.uint8"),
        (Items((IMAGES[0, 0], 0)), r"image 0 is torch.float64 \[4, 4\]"),
        (Items((IMAGES[0], 0), (IMAGES[1, :, :3], 0)), "image and label 1 have other shapes"),
        (Items((IMAGES[0], 0), (IMAGES[1], [0.5, 0.5])), "image and label 1 have other shapes"),
    ],
)
def test_anything_else_is_refused(given, message):
    with pytest.raises(DataError, match=f"^test set: .*{message}"):
        as_test_set(given, "test set")
