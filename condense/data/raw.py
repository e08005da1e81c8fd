"""What a reader gives back, and the checks that every data set passes whatever it was read from."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condense.data.types import Split
from condense.errors import DataError


class Raw(NamedTuple):
    """A data set as its files give it: official training and test sets, class names by label, where it came from."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    source: str


def split(images: NDArray[Any], labels: NDArray[Any], where: str) -> Split:
    """A `Split` of images [n, h, w], [n, h, w, ch] or [n, ch, h, w] with h = w, and labels [n] of any integer type.

    Raises DataError, which names `where`, if there is no image, the images are not square, or the counts differ.
    """
    shape = images.shape
    if 0 in shape:
        raise DataError(f"{where}: the image array of shape {list(shape)} is empty.")
    last = images.ndim == 4 and shape[1] == shape[2]
    first = images.ndim == 4 and shape[2] == shape[3]
    if last and first:
        raise DataError(f"{where}: images of shape {list(shape)} do not show which axis holds the channels.")
    if images.ndim == 3 and shape[1] == shape[2]:
        images = images[:, None]
    elif last:
        images = images.transpose(0, 3, 1, 2)
    elif not first:
        raise DataError(
            f"{where}: images must be square, [n, size, size], [n, size, size, channels] or [n, channels, size, size], "
            f"but the shape is {list(shape)}. Resize or crop them to one square size."
        )
    if labels.shape != (len(images),):
        raise DataError(
            f"{where}: {len(images)} images need labels of shape [{len(images)}], not {list(labels.shape)}."
        )
    return Split(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))


def check(name: str, raw: Raw) -> None:
    """Raise DataError unless train and test have images of one form and labels 0..C-1, C > 1, each class in train."""
    train, test, count = raw.train, raw.test, len(raw.classes)
    if (train.images.shape[1:], train.images.dtype) != (test.images.shape[1:], test.images.dtype):
        raise DataError(
            f"{name}: training images are {list(train.images.shape[1:])} {train.images.dtype}, test images "
            f"{list(test.images.shape[1:])} {test.images.dtype}; both must be of one shape and type."
        )
    if count < 2:
        raise DataError(f"{name}: at least two classes are needed, found {count}.")
    for part, labels in (("training", train.labels), ("test", test.labels)):
        if labels.min() < 0 or labels.max() >= count:
            raise DataError(
                f"{name}: {part} labels reach from {labels.min()} to {labels.max()}, but the training set has "
                f"{count} classes, so that 0..{count - 1} are allowed."
            )
    for label, images in enumerate(train.labels.bincount(minlength=count).tolist()):
        if images == 0:
            raise DataError(f"{name}: class {raw.classes[label]!r} has no training image.")


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 (hexadecimal) of the types, shapes and contents of `tensors`, in this order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
