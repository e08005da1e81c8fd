"""Reader of one .npz file."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condense.data.raw import Raw, split
from condense.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path, download: bool) -> Raw:
    """Arrays x_train, y_train, x_test, y_test of one file written by numpy.savez; pickled objects are refused.

    Images [n, size, size], [n, size, size, channels] or [n, channels, size, size], uint8 in 0..255 or float in
    [0, 1]; labels [n], integers 0..C-1, each in y_train. Raises DataError, which names the array at fault.
    """
    del download  # nothing to fetch
    arrays = _load(path)
    for key in ("x_train", "x_test"):
        arrays[key] = _values(arrays[key], f"{path}: {key}")
    for key in ("y_train", "y_test"):
        if arrays[key].dtype.kind not in "iu":
            raise DataError(f"{path}: {key} must hold integers 0..C-1, not {arrays[key].dtype}.")
    labels = np.unique(arrays["y_train"])
    if not np.array_equal(labels, np.arange(len(labels))):
        raise DataError(
            f"{path}: y_train must hold each of 0..C-1, but holds {len(labels)} different labels from {labels.min()} "
            f"to {labels.max()}. Renumber them: numpy.unique(y, return_inverse=True)."
        )
    train = split(arrays["x_train"], arrays["y_train"], f"{path}: x_train")
    test = split(arrays["x_test"], arrays["y_test"], f"{path}: x_test")
    return Raw(train, test, tuple(map(str, labels.tolist())), f"npz file {path.name}")


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"npz file {path}: not there. Write one with numpy.savez({path.name!r}, x_train=..., ...).")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if missing := [key for key in KEYS if key not in archive]:
                raise KeyError(f"no array {', '.join(missing)}")
            return {key: archive[key] for key in KEYS}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not an npz file with the arrays {', '.join(KEYS)} ({error}). Write one with numpy.savez; "
            "arrays of objects are not read."
        ) from error


def _values(images: NDArray[Any], where: str) -> NDArray[Any]:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise DataError(f"{where} must be uint8 in 0..255 or float in [0, 1], not {images.dtype}.")
    if not np.all((images >= 0) & (images <= 1)):
        raise DataError(f"{where}: float images must be in [0, 1]; these reach from {images.min()} to {images.max()}.")
    return images.astype(np.float32)
