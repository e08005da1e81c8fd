"""The tensors of a distilled set, and when they are valid."""

import math
from pathlib import Path

import torch
from torch import Tensor

from condense.artifact.format import Manifest
from condense.errors import ArtifactError
from condense.synthetic import LabelStore, Views
from condense.synthetic.label_store import shapes

COMPENSATORS = "compensators"
NARROW = (torch.int16, torch.int32)
STORE_TYPES = {
    "order": torch.int32,
    "boxes": torch.int16,
    "mirrored": torch.bool,
    "partners": torch.int32,
    "patches": torch.int16,
    "shares": torch.float32,
    "values": torch.float16,
}
"""On disk. Whole numbers are narrow, for the views of a set with few classes weigh more than their labels."""


def class_of(labels: Tensor) -> Tensor:
    """Class index of each image, int64 [n]: hard labels as they are, of soft ones the most probable class."""
    return labels if labels.ndim == 1 else labels.argmax(1)


def class_of_stored(images: Tensor, labels: Tensor) -> Tensor:
    """Class index of each stored image, int64 [n], of labels for these or for all the images to train on."""
    return class_of(labels)[:: len(labels) // len(images)]


def check_tensors(manifest: Manifest, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise ArtifactError unless `tensors`, read from `path`, are those the manifest announces, finite and in range."""
    _check_layout(_layout(manifest), tensors, path)
    if "preprocessing.std" in tensors and not bool((tensors["preprocessing.std"] > 0).all()):
        raise ArtifactError(f"{path}: tensor 'preprocessing.std' has values that are not positive.")
    images = manifest.images
    if images.factor > min(images.shape[2:]):
        raise ArtifactError(f"{path}: factor {images.factor} asks for more cells than an image has pixels.")
    if images.compensators is not None:
        groups, _ = images.compensators
        if images.factor > 1:
            raise ArtifactError(f"{path}: factor {images.factor}, but images with compensators are not mosaics.")
        if images.shape[0] % groups:
            raise ArtifactError(f"{path}: {images.shape[0]} images do not make {groups} groups of equal size.")
    check_labels(tensors["labels"], len(manifest.classes), path)


def check_store(manifest: Manifest, tensors: dict[str, Tensor], path: Path) -> LabelStore:
    """The label store that `tensors`, read from `path`, are. Raises ArtifactError as `check_tensors`."""
    _check_layout(_store_layout(manifest), tensors, path)
    record, (_, _, height, width) = manifest.store, manifest.images.shape
    assert record is not None
    if height != width:
        raise ArtifactError(f"{path}: a label store is for square images, and these are {height} by {width}.")
    whole = {name: tensor.long() if tensor.dtype in NARROW else tensor for name, tensor in tensors.items()}
    values = whole.pop("values")
    store = LabelStore(Views(**whole, batch=record.batch), record.kind, values, record.weight, record.group)
    if fault := store.fault(manifest.images.trained_on, height, len(manifest.classes)):
        raise ArtifactError(f"{path}: {fault}.")
    return store


def _check_layout(
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]], tensors: dict[str, Tensor], path: Path
) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise ArtifactError(f"{path}: no tensor {name!r}; a set needs {', '.join(expected)}.")
        if name not in expected:
            raise ArtifactError(f"{path}: tensor {name!r} does not belong here; allowed: {', '.join(expected)}.")
        tensor, (dtype, shape) = tensors[name], expected[name]
        if tensor.dtype != dtype:
            raise ArtifactError(f"{path}: tensor {name!r} is {tensor.dtype}; it must be {dtype}.")
        if tuple(tensor.shape) != shape:
            raise ArtifactError(
                f"{path}: tensor {name!r} has shape {list(tensor.shape)}; the manifest asks for {list(shape)}."
            )
        if not bool(tensor.isfinite().all()):
            raise ArtifactError(f"{path}: tensor {name!r} has values that are NaN or infinite.")


def stored_bytes(manifest: Manifest) -> dict[str, int]:
    """What a distilled set costs to store: the bytes of its images, labels, preprocessing and learned learning rate.

    Bytes are those of the numbers themselves, without file headers. Compensators count as images, a label store as
    labels, its views included, the learning rate as a float32 where there is one. Sets are comparable where the sums
    are: images at a fraction of the size, or soft labels, change what ipc means.
    """
    found = {"images": 0, "labels": 0, "preprocessing": 0, "lr": 0 if manifest.lr is None else 4}
    for name, (dtype, shape) in _layout(manifest).items():
        found["images" if name == COMPENSATORS else name.partition(".")[0]] += dtype.itemsize * math.prod(shape)
    found["labels"] += sum(dtype.itemsize * math.prod(shape) for dtype, shape in _store_layout(manifest).values())
    return found


def _layout(manifest: Manifest) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor in the data file."""
    n, channels, height, width = manifest.images.shape
    compensators = manifest.images.compensators
    labelled = n if compensators is None else manifest.images.trained_on
    hard, d = manifest.labels.kind == "hard", channels * height * width
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "mean_std": {"mean": (channels,), "std": (channels,)},
        "zca": {"mean": (d,), "matrix": (d, d), "inverse": (d, d)},
    }
    preprocessing = shapes[manifest.preprocessing.kind].items()
    return {
        "images": (torch.float32, (n, channels, height, width)),
        **({} if compensators is None else {COMPENSATORS: (torch.float32, (*compensators, channels, height, width))}),
        "labels": (torch.int64, (labelled,)) if hard else (torch.float32, (labelled, len(manifest.classes))),
        **{f"preprocessing.{name}": (torch.float32, shape) for name, shape in preprocessing},
    }


def _store_layout(manifest: Manifest) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor in the file of the label store; none without one."""
    record, n = manifest.store, manifest.images.trained_on
    if record is None:
        return {}
    found = shapes(record.kind, epochs=record.epochs, n=n, batch=record.batch, classes=len(manifest.classes))
    return {name: (STORE_TYPES[name], shape) for name, shape in found.items()}


def check_labels(labels: Tensor, classes: int, path: Path) -> None:
    """Raise ArtifactError unless each label, read from `path`, is a class, or each row probabilities over them."""
    if labels.ndim == 1:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ArtifactError(f"{path}: labels lie in {low}..{high}, but {classes} classes allow 0..{classes - 1}.")
    elif not bool((labels >= 0).all()) or not bool(((labels.sum(1) - 1).abs() < 1e-3).all()):
        raise ArtifactError(f"{path}: soft labels must be probabilities: each row >= 0 and with sum 1.")
