"""Readers of folders of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from condense.data.raw import Raw, split
from condense.errors import DataError

MODES = ("L", "RGB")
"""The modes of Pillow that are read: grey and colour, 8 bits a channel."""

_Form = tuple[str, tuple[int, int]]
"""Pillow's mode and (width, height) of an image."""


def read_folder(path: Path, download: bool) -> Raw:
    """Images path/train/CLASS/FILE and path/test/CLASS/FILE (or val/ for test/), classes in alphabetical order.

    Every image is grey ("L") or RGB, 8 bits, and all have one square size. Hidden files are skipped.
    Raises DataError, which names the file or folder at fault.
    """
    del download  # nothing to fetch
    tests = [path / name for name in ("test", "val") if (path / name).is_dir()]
    if not (path / "train").is_dir() or not tests:
        raise DataError(
            f"image folder {path}: no train/ together with test/ or val/. Expected {path}/train/CLASS/IMAGE and "
            f"{path}/test/CLASS/IMAGE."
        )
    if len(tests) == 2:
        raise DataError(
            f"image folder {path}: both test/ and val/ are there. Leave the one that is to be the test set; validation "
            "images are taken out of train/."
        )
    train, test = path / "train", tests[0]
    classes = class_names(train)
    if different := set(classes) ^ set(class_names(test)):
        raise DataError(f"{train} and {test} must hold the same class folders, but differ in {sorted(different)}.")
    files, labels = class_files(train, classes)
    test_files, test_labels = class_files(test, classes)
    return Raw(
        split(read_pictures(files, files[0]), labels, str(train)),
        split(read_pictures(test_files, files[0]), test_labels, str(test)),
        classes,
        f"image folder {path.name} (train/, {test.name}/)",
    )


def class_names(path: Path) -> tuple[str, ...]:
    """What path/ holds, hidden names apart, in alphabetical order. Raises DataError if it is not a folder."""
    return tuple(entry.name for entry in _visible(path))


def class_files(path: Path, classes: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    """The files path/CLASS/FILE, hidden ones apart, and the label of each: the place of CLASS in `classes`.

    Raises DataError for a CLASS that is not a folder, or if there is no file.
    """
    found = [(file, label) for label, name in enumerate(classes) for file in _visible(path / name)]
    if not found:
        raise DataError(f"{path}: no image in it. Expected {path}/CLASS/IMAGE.")
    return [file for file, _ in found], np.array([label for _, label in found])


def read_pictures(files: Sequence[Path], like: Path) -> NDArray[np.uint8]:
    """The images in `files`, [n, size, size] or [n, size, size, 3]: square, grey or RGB, of the form of `like`.

    Raises DataError, which names the file at fault.
    """
    form = _open(like)[0]
    return np.stack([_pixels(file, form, like) for file in files])


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder, one for each class.")
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _open(file: Path) -> tuple[_Form, NDArray[np.uint8]]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return (image.mode, image.size), np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not an image that Pillow can read ({error}). Mend or remove it.") from error


def _pixels(file: Path, wanted: _Form, first: Path) -> NDArray[np.uint8]:
    (mode, (width, height)), pixels = _open(file)
    if mode not in MODES or width != height:
        raise DataError(
            f"{file}: a {width}x{height} image of mode {mode}; allowed are square images of mode "
            f"{' or '.join(MODES)}. With Pillow: image.convert('RGB').resize((size, size))."
        )
    if (mode, (width, height)) != wanted:
        raise DataError(
            f"{file}: {mode}, {width}x{height}, but {first} is {wanted[0]}, {wanted[1][0]}x{wanted[1][1]}; all images "
            f"must have one mode and size. With Pillow: image.convert({wanted[0]!r}).resize({wanted[1]})."
        )
    return pixels
