"""Reading sets that other programs made: from paths to tensors. Nothing that a file holds is run."""

import csv
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from condense.artifact.export import LABELS_CSV
from condense.artifact.tensors import check_labels
from condense.data import Preprocessing, RealData
from condense.data.folder import class_files, class_names, read_pictures
from condense.data.preprocess import check_kind
from condense.data.raw import split
from condense.errors import ArtifactError, ConfigError, DataError

PREFIX = "preprocessing."
MAP = ("mean", "std", "matrix", "inverse")
NAMES = ("images", "labels", "classes", "lr", *MAP, *(PREFIX + name for name in MAP))
"""The arrays of a file that are looked at."""
INVERSE_ERROR = 0.01
"""Largest error of matrix and inverse, one after the other, as a part of the largest number in the images."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """A set as its files give it, checked as far as that goes without the real data.

    `images` [n, ch, size, size] are uint8 pixels or float32 network input, `labels` int64 [n] or float32 probabilities
    [n, classes]. `preprocessing` is the map from pixels to network input, `classes` are names in the order of the
    labels, `lr` is the learned learning rate; None where the files have none. `origins` says where images, labels,
    preprocessing and lr come from.
    """

    images: Tensor
    labels: Tensor
    preprocessing: Preprocessing | None
    classes: tuple[str, ...] | None
    lr: float | None
    origins: dict[str, str]


def read_set(source: Path, labels: Path | None = None, index: int | None = None) -> Foreign:
    """The set in a .npz, .pt, .pth or .safetensors file, or in a folder of pictures; docs/format.md lists the layouts.

    `labels` is another such file, for a `source` that has images alone; `index` is the place of the set, from 0, in a
    `source` that holds several. Raises ArtifactError or DataError for what is missing, damaged, or not of the right
    type, shape or range; ConfigError for labels that are given twice, and an index that is missing or not there.
    """
    content, origin = _read(source, index=index)
    labelled, origin_of_labels = content, origin
    if labels is not None:
        if "labels" in content:
            raise ConfigError(f"{source} brings its labels, and --labels {labels} gives others. Leave out --labels")
        labelled, origin_of_labels = _read(labels, bare="labels")
    images = _images(_entry(content, "images", source), source)
    found, preprocessing, lr = _entry(labelled, "labels", labels or source), _map(content, source), _lr(content, source)
    origins = {"images": origin, "labels": origin_of_labels}
    origins |= {name: origin for name, it in (("preprocessing", preprocessing), ("lr", lr)) if it is not None}
    return Foreign(images, _labels(found, len(images), labels or source), preprocessing, _classes(content), lr, origins)


def stated_map(
    foreign: Foreign, *, mean: Sequence[float] | None, std: Sequence[float] | None, zca: Path | None, fit: str | None
) -> tuple[Preprocessing | None, str]:
    """The map from pixels to network input, and where it comes from: the set's own files, mean and standard deviation
    of each channel, or a file `zca` with the tensors mean [D], matrix and inverse [D, D]. It is None if a map of the
    kind `fit` is to be fitted to the real data, which pixels alone allow.

    Nothing is guessed: raises ConfigError unless exactly one of these is given, ArtifactError for a map that does not
    fit the images or has no inverse.
    """
    given = {
        "the set's own": foreign.preprocessing is not None,
        "--mean and --std": mean is not None or std is not None,
        "--zca": zca is not None,
        "--preprocessing": fit is not None,
    }
    stated = [name for name, is_given in given.items() if is_given]
    if not stated:
        raise ConfigError(
            "nothing says what a number in the images means. Give --mean and --std, by which each channel was "
            "normalised, or --zca FILE; for 8-bit pixels, --preprocessing fits one to the real data"
        )
    if len(stated) > 1:
        raise ConfigError(f"what a number in the images means is stated twice: {', '.join(stated)}. Keep one of them")
    if fit is not None:
        if foreign.images.dtype != torch.uint8:
            raise ConfigError(
                f"--preprocessing {fit} is for 8-bit pixels, and the images are floating-point numbers, so they have "
                "been preprocessed. Give --mean and --std, or --zca FILE, by which that was done"
            )
        return None, f"{check_kind(fit)}, fitted to the training images"
    if zca is not None:
        content, origin = _read(zca)
        where, found = str(zca), _map(content, zca)
        if found is None or found.kind != "zca":
            raise ArtifactError(f"{zca}: no whitening: the tensors mean [D], matrix and inverse [D, D] are needed.")
    elif foreign.preprocessing is not None:
        where, found, origin = "the set's own map", foreign.preprocessing, foreign.origins["preprocessing"]
    elif mean is None or std is None:
        raise ConfigError("--mean and --std belong together. Give both")
    else:
        where = origin = "--mean and --std"
        found = _preprocessing({"mean": torch.tensor(mean), "std": torch.tensor(std)}, where)
    _check_map(found, foreign.images, where)
    return found, origin


def fit_to(foreign: Foreign, data: RealData, source: Path) -> Foreign:
    """The set with its labels in the order of the classes of `data`.

    Where the names of its classes are those of `data`, they decide; other names count by their place alone. Raises
    ArtifactError for images or labels that are not of these data.
    """
    labels, names, count = foreign.labels, foreign.classes, data.num_classes
    ours, theirs = list(data.train.images.shape[1:]), list(foreign.images.shape[1:])
    if theirs != ours:
        raise ArtifactError(f"{source}: images are {theirs}, those of {data.name} {ours} (channels, height, width).")
    classes = {len(names)} if names is not None else set()
    classes |= {labels.shape[1]} if labels.ndim == 2 else set()
    if classes - {count}:
        raise ArtifactError(f"{source}: {max(classes - {count})} classes, but {data.name} has {count}.")
    check_labels(labels, count, source)
    if names is None or names == data.classes:
        return foreign
    if set(names) == set(data.classes) and len(set(names)) == count:
        places = torch.tensor([data.classes.index(name) for name in names])
        return replace(foreign, labels=places[labels] if labels.ndim == 1 else labels[:, places.argsort()])
    if all(name.isdecimal() for name in names) and sorted(names, key=int) != list(names):
        raise ArtifactError(
            f"{source}: the classes are numbers in alphabetical order, {', '.join(names[:3])}, ..., which is not "
            "their own. Put zeros in front, so that all have the same length."
        )
    return foreign


def _read(path: Path, bare: str = "images", index: int | None = None) -> tuple[dict[str, Any], str]:
    """The named contents of a file or folder, and where they come from. A lone tensor gets the name `bare`."""
    if path.is_dir():
        _check_index(path, 1, index)
        files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        sums = [f"{_sha256((path / file).read_bytes())}  {file}\n" for file in files]
        pictures = _listed_pictures(path) if (path / LABELS_CSV).is_file() else _class_folders(path)
        return pictures, _origin(path, "".join(sums).encode())
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file or folder.")
    if path.suffix not in _READERS:
        raise ArtifactError(f"{path}: this kind of file is not read; allowed: {', '.join(_READERS)}, or a folder.")
    data = path.read_bytes()
    try:
        content = _READERS[path.suffix](data)
    except Exception as error:  # the libraries do not say what a damaged file can raise
        raise ArtifactError(
            f"{path}: not a {path.suffix} file of tensors and plain values ({type(error).__name__}). It is damaged, or "
            "holds objects, which are not read because they could run code: write it anew with tensors alone."
        ) from error
    several = content.get("data") if isinstance(content, Mapping) and "images" not in content else None
    _check_index(path, len(several) if isinstance(several, list) else 1, index)
    if isinstance(several, list):
        content = several[index or 0]
    if isinstance(content, Tensor):
        content = {bare: content}
    elif isinstance(content, list | tuple) and len(content) == 2:
        content = {"images": content[0], "labels": content[1]}
    elif not isinstance(content, Mapping):
        raise ArtifactError(f"{path}: must hold a dictionary, a tensor or a pair (images, labels).")
    return {str(name): value for name, value in content.items()}, _origin(path, data)


def _check_index(path: Path, count: int, index: int | None) -> None:
    if count == 0:
        raise ArtifactError(f"{path}: the list of sets is empty.")
    if index is None and count > 1:
        raise ConfigError(f"{path} holds {count} sets. Say which one, by --index 0 to {count - 1}")
    if index is not None and not 0 <= index < count:
        allowed = f"0 to {count - 1}" if count > 1 else "0, or none"
        raise ConfigError(f"--index {index}: {path} holds {count} set{'s' * (count > 1)}. Allowed: {allowed}")


def _origin(path: Path, data: bytes) -> str:
    return f"imported from {path.absolute().name}, SHA-256 {_sha256(data)}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _npz(data: bytes) -> dict[str, Any]:
    with np.load(BytesIO(data), allow_pickle=False) as archive:
        return {name: _plain(archive[name]) if name in NAMES else None for name in archive.files}


def _plain(array: np.ndarray[Any, Any]) -> Any:
    return array.tolist() if array.dtype.kind == "U" else torch.from_numpy(array)


def _pt(data: bytes) -> Any:
    with torch.serialization.safe_globals(_NUMPY_NUMBERS):
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)


# The code of DC, DSA and DM saves its accuracies, which are numpy's numbers, beside the images.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
    *((_NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # numpy 1 and 2
]


_READERS: dict[str, Callable[[bytes], Any]] = {
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
    ".safetensors": safetensors.torch.load,
}


def _class_folders(path: Path) -> dict[str, Any]:
    """path/CLASS/FILE, classes in alphabetical order, as torchvision's ImageFolder reads it."""
    classes = class_names(path)
    files, labels = class_files(path, classes)
    pictures = split(read_pictures(files), labels, str(path))
    return {"images": pictures.images, "labels": pictures.labels, "classes": classes}


def _listed_pictures(path: Path) -> dict[str, Any]:
    """path/FILE with the table path/labels.csv: columns file and label, and p0, p1, ... where labels are soft."""
    table = path / LABELS_CSV
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names, hard = [row["file"] for row in rows], np.array([int(row["label"]) for row in rows], np.int64)
        columns = [f"p{k}" for k in range(sum(bool(re.fullmatch(r"p\d+", key)) for key in rows[0]))]
        soft = [[float(row[column]) for column in columns] for row in rows]
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError, csv.Error) as error:
        raise ArtifactError(
            f"{table}: must have the columns file and label, for soft labels p0, p1, ... as well, and a row for each "
            f"image ({error})."
        ) from error
    for name in names:
        if Path(name).name != name:
            raise ArtifactError(f"{table}: {name!r} is not the plain name of a file beside it.")
    pictures = split(read_pictures([path / name for name in names]), hard, str(path))
    return {"images": pictures.images, "labels": torch.tensor(soft) if columns else pictures.labels}


def _entry(content: Mapping[str, Any], name: str, path: Path) -> Tensor:
    """The tensor of this name, on the CPU and without a graph."""
    if name not in content:
        hint = " Give --labels FILE" if name == "labels" else ""
        raise ArtifactError(f"{path}: no {name}; it holds {', '.join(content) or 'nothing'}.{hint}")
    value = content[name]
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise ArtifactError(f"{path}: {name} must be an array of numbers, not {type(value).__name__}.")
    return value.detach()


def _images(images: Tensor, path: Path) -> Tensor:
    shape = list(images.shape)
    if len(shape) != 4 or 0 in shape or shape[2] != shape[3]:
        raise ArtifactError(f"{path}: images must be square, [n, channels, size, size] with n >= 1, not {shape}.")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ArtifactError(f"{path}: images must be uint8 pixels or floating-point network input, not {images.dtype}.")
    images = images.to(torch.float32)
    if not bool(images.isfinite().all()):
        raise ArtifactError(f"{path}: some numbers in the images are NaN or infinite.")
    return images


def _labels(labels: Tensor, n: int, path: Path) -> Tensor:
    shape, soft = list(labels.shape), labels.is_floating_point()
    if len(shape) != 1 + soft or labels.is_complex() or labels.dtype == torch.bool:
        raise ArtifactError(
            f"{path}: labels must be integers [n] or probabilities [n, classes], not {labels.dtype} {shape}."
        )
    if shape[0] != n:
        raise ArtifactError(f"{path}: {shape[0]} labels for {n} images.")
    return labels.to(torch.float32 if soft else torch.int64)


def _classes(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of the classes; what is called so and is no list of names is something else."""
    names = content.get("classes")
    return tuple(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else None


def _lr(content: Mapping[str, Any], path: Path) -> float | None:
    value = content.get("lr")
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if value is None:
        return None
    if not isinstance(value, int | float) or not (value > 0 and math.isfinite(value)):
        raise ArtifactError(f"{path}: lr must be one positive number, not {value!r}.")
    return float(value)


def _map(content: Mapping[str, Any], path: Path) -> Preprocessing | None:
    """The map that the tensors with names of `MAP` define; None if there are none."""
    names = [name for name in content if name.removeprefix(PREFIX) in MAP]
    tensors = {name.removeprefix(PREFIX): _entry(content, name, path) for name in names}
    if len(tensors) < len(names):
        raise ArtifactError(f"{path}: {', '.join(names)}: the same name with {PREFIX!r} in front and without.")
    return _preprocessing(tensors, str(path)) if tensors else None


def _preprocessing(tensors: Mapping[str, Tensor], where: str) -> Preprocessing:
    """The map by its tensors, whatever their type; those for each channel may have shapes such as [1, ch, 1, 1]."""
    kind = "zca" if {"matrix", "inverse"} & tensors.keys() else "mean_std"
    try:
        return Preprocessing.from_tensors(
            kind, {name: (t.flatten() if name in ("mean", "std") else t).float() for name, t in tensors.items()}
        )
    except DataError as error:
        raise ArtifactError(f"{where}: {error}") from error


def _check_map(preprocessing: Preprocessing, images: Tensor, where: str) -> None:
    values, shape = preprocessing.values, list(images.shape[1:])
    per, wanted = ("channel", shape[0]) if preprocessing.kind == "mean_std" else ("pixel", math.prod(shape))
    if (found := values["mean"].numel()) != wanted:
        raise ArtifactError(f"{where}: mean has {found} numbers; images {shape} need one for each {per}: {wanted}.")
    if preprocessing.kind == "mean_std":
        if not bool((values["std"] > 0).all()):
            raise ArtifactError(f"{where}: std must be positive, not {values['std'].tolist()}.")
        return
    z = preprocessing(images) if images.dtype == torch.uint8 else images
    error = (preprocessing(preprocessing.inverse(z)) - z).abs().max()
    if not float(error) <= INVERSE_ERROR * float(z.abs().max()):
        raise ArtifactError(f"{where}: inverse is not the inverse of matrix.")
