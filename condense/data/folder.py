"""Readers of folders of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from condense.data.raw import Raw, split
from condense.errors import DataError

MODES = ("L", "RGB")
"""The modes of Pillow that are read: grey and colour, 8 bits a channel."""


def read_folder(path: Path, download: bool) -> Raw:
    """Images path/train/CLASS/FILE and path/test/CLASS/FILE (or val/ for test/), classes in alphabetical order.

    Every image is grey ("L") or RGB, 8 bits, and all have one square size (`read_pictures`). Hidden files are skipped.
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
    pictures = read_pictures([*files, *test_files])
    return Raw(
        split(pictures[: len(files)], labels, str(train)),
        split(pictures[len(files) :], test_labels, str(test)),
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


def read_pictures(files: Sequence[Path]) -> NDArray[np.uint8]:
    """The images in `files`, [n, size, size] if all are grey, else [n, size, size, 3]: square, of the first one's size.

    A grey image among RGB ones is the RGB image that looks the same: three equal channels. Raises DataError, which
    names the file at fault.
    """
    pictures = [_pixels(files[0], None)]
    pictures += [_pixels(file, (len(pictures[0]), files[0])) for file in files[1:]]
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [picture if picture.ndim == 3 else picture[..., None].repeat(3, 2) for picture in pictures]
    return np.stack(pictures)


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder, one for each class.")
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _open(file: Path) -> tuple[str, NDArray[np.uint8]]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not an image that Pillow can read ({error}). Mend or remove it.") from error


def _pixels(file: Path, wanted: tuple[int, Path] | None) -> NDArray[np.uint8]:
    """Of one file; `wanted` is the side of the first image, and its file."""
    mode, pixels = _open(file)
    height, width = pixels.shape[:2]
    if mode not in MODES or width != height:
        raise DataError(
            f"{file}: a {width}x{height} image of mode {mode}; allowed are square images of mode "
            f"{' or '.join(MODES)}. With Pillow: image.convert('RGB').resize((size, size))."
        )
    if wanted is not None and width != wanted[0]:
        side, first = wanted
        raise DataError(
            f"{file}: {width}x{height}, but {first} is {side}x{side}; all images must have one size. With Pillow: "
            f"image.resize(({side}, {side}))."
        )
    return pixels
