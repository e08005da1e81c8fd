"""Reader of a folder of images."""

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
    classes = [entry.name for entry in _visible(train)]
    if different := set(classes) ^ {entry.name for entry in _visible(test)}:
        raise DataError(f"{train} and {test} must hold the same class folders, but differ in {sorted(different)}.")

    files = {part: [(file, label) for label, name in enumerate(classes) for file in _visible(part / name)]
             for part in (train, test)}  # fmt: skip
    for part, found in files.items():
        if not found:
            raise DataError(f"{part}: no image in it. Expected {part}/CLASS/IMAGE.")
    first = files[train][0][0]
    form = _open(first)[0]
    splits = {}
    for part, found in files.items():
        images = np.stack([_pixels(file, form, first) for file, _ in found])
        splits[part] = split(images, np.array([label for _, label in found]), str(part))
    return Raw(splits[train], splits[test], tuple(classes), f"image folder {path.name} (train/, {test.name}/)")


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
