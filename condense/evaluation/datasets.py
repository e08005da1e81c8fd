"""A torch Dataset as the evaluator takes it."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from condense.errors import DataError
from condense.evaluation.sets import TestSet, TrainingSet

AnyDataset = Dataset[Any]


def as_training_set(given: TrainingSet | AnyDataset) -> TrainingSet:
    """A set to train on, from itself or from a Dataset of (image, label), which is read once.

    An image is a float tensor [ch, size, size] as a network sees it, a label an integer, or the probabilities of all
    classes. Raises DataError for anything else.
    """
    return given if isinstance(given, TrainingSet) else TrainingSet(*_tensors(given, "training set"))


def as_test_set(given: TestSet | AnyDataset, what: str) -> TestSet:
    """A set to test on, likewise; `what` names it in errors."""
    return given if isinstance(given, TestSet) else TestSet(*_tensors(given, what))


def _tensors(dataset: AnyDataset, what: str) -> tuple[Tensor, Tensor]:
    """All images [n, ch, h, w] and labels, int64 [n] or float [n, classes]."""
    if not isinstance(dataset, Dataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"{what}: a {type(dataset).__name__} is no torch Dataset with a length whose items are (image, label)."
        )
    images, labels = [], []
    for index in range(len(dataset)):
        item = dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{what}: item {index} is {_described(item)}; it must be (image, label).")
        image, label = item
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
            raise DataError(
                f"{what}: image {index} is {_described(image)}; it must be a float tensor [ch, size, size] as a "
                "network sees it. Give the Dataset a transform that converts and normalises."
            )
        images.append(image.float())
        labels.append(torch.as_tensor(label))
        if image.shape != images[0].shape or labels[-1].shape != labels[0].shape:
            raise DataError(f"{what}: image and label {index} have other shapes than the first.")
    if not images:
        raise DataError(f"{what}: it is empty.")
    stacked = torch.stack(labels)
    return torch.stack(images), stacked.float() if stacked.is_floating_point() else stacked.long()


def _described(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
