"""The tensors of a distilled set, and when they are valid."""

from pathlib import Path

import torch
from torch import Tensor

from condense.artifact.format import Manifest
from condense.errors import ArtifactError


def class_of(labels: Tensor) -> Tensor:
    """Class index of each image, int64 [n]: hard labels as they are, of soft ones the most probable class."""
    return labels if labels.ndim == 1 else labels.argmax(1)


def check_tensors(manifest: Manifest, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise ArtifactError unless `tensors`, read from `path`, are those the manifest announces, finite and in range."""
    expected = _layout(manifest)
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
    if "preprocessing.std" in tensors and not bool((tensors["preprocessing.std"] > 0).all()):
        raise ArtifactError(f"{path}: tensor 'preprocessing.std' has values that are not positive.")
    if manifest.images.factor > min(tensors["images"].shape[2:]):
        raise ArtifactError(f"{path}: factor {manifest.images.factor} asks for more cells than an image has pixels.")
    check_labels(tensors["labels"], len(manifest.classes), path)


def _layout(manifest: Manifest) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor in the data file."""
    n, channels, height, width = manifest.images.shape
    hard, d = manifest.labels.kind == "hard", channels * height * width
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "mean_std": {"mean": (channels,), "std": (channels,)},
        "zca": {"mean": (d,), "matrix": (d, d), "inverse": (d, d)},
    }
    preprocessing = shapes[manifest.preprocessing.kind].items()
    return {
        "images": (torch.float32, (n, channels, height, width)),
        "labels": (torch.int64, (n,)) if hard else (torch.float32, (n, len(manifest.classes))),
        **{f"preprocessing.{name}": (torch.float32, shape) for name, shape in preprocessing},
    }


def check_labels(labels: Tensor, classes: int, path: Path) -> None:
    """Raise ArtifactError unless each label, read from `path`, is a class, or each row probabilities over them."""
    if labels.ndim == 1:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ArtifactError(f"{path}: labels lie in {low}..{high}, but {classes} classes allow 0..{classes - 1}.")
    elif not bool((labels >= 0).all()) or not bool(((labels.sum(1) - 1).abs() < 1e-3).all()):
        raise ArtifactError(f"{path}: soft labels must be probabilities: each row >= 0 and with sum 1.")
