"""Readers of the sets that have a name: scikit-learn's digits, the binary CIFAR-10, and what torchvision reads."""

import hashlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from condense.data.holdout import hold_out
from condense.data.raw import Raw, split
from condense.errors import DataError
from condense.loading import undisturbed

Reader = Callable[[Path, bool], Raw]
"""Reads the files under a folder; True allows it to download them to there."""

DIGITS = tuple("0123456789")

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_BINARY = "cifar-10-batches-bin"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
"""SHA-256 of each file inside the archive at `CIFAR10_URL`."""


def read_digits(root: Path, download: bool) -> Raw:
    """The 1,797 grey 8x8 digits inside scikit-learn, 0..16 scaled to 0..255; a fifth of each class is the test set."""
    del root, download  # the images are part of scikit-learn
    with undisturbed():
        from sklearn.datasets import load_digits

    bunch = load_digits()
    whole = split((bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target, "digits")
    train, test = hold_out(whole, 0.2, "digits test set")
    return Raw(train, test, DIGITS, "scikit-learn load_digits")


def read_cifar10(root: Path, download: bool) -> Raw:
    """The official binary version under root/cifar-10-batches-bin, or else torchvision's under root."""
    folder = root / CIFAR10_BINARY
    if not folder.is_dir():
        return _read_cifar10_torchvision(root, download)
    records = {name: _read_batch(folder / name, digest) for name, digest in CIFAR10_SHA256.items()}
    test = records.pop("test_batch.bin")
    train = np.concatenate(list(records.values()))
    parts = [split(part[:, 1:].reshape(-1, 3, 32, 32), part[:, 0], str(folder)) for part in (train, test)]
    return Raw(parts[0], parts[1], CIFAR10_CLASSES, "CIFAR-10 binary version, SHA-256 checked")


def _read_batch(file: Path, digest: str) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Records [10000, 3073]: a label, then 3 planes of 32x32 pixels."""
    if not file.is_file():
        raise DataError(f"cifar10: {file} is missing. Unpack {CIFAR10_URL} to {file.parent.parent}.")
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise DataError(
            f"cifar10: {file} is damaged: its SHA-256 is {found}, but that of the official file is {digest}. Delete "
            f"{file.parent} and unpack {CIFAR10_URL} to {file.parent.parent}."
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, 3073)


def torchvision_reader(
    name: str,
    dataset: str,
    files: tuple[str, ...],
    *,
    parts: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False}),
    labels: str = "targets",
    classes: tuple[str, ...] | None = None,
    instead: str = "",
) -> Reader:
    """A reader of `torchvision.datasets.<dataset>`, which needs `files` under root.

    `parts` are the arguments that choose training and test set, `labels` the attribute that holds the labels,
    `classes` the class names where the set has no attribute of that name, `instead` another way to get the data.
    """

    def read(root: Path, download: bool) -> Raw:
        missing = [file for file in files if not (root / file).is_file()]
        if missing and not download:
            raise DataError(
                f"{name}: {root / missing[0]} is missing. Add --download to the command to fetch it (in Python: "
                f"download=True), or point --data-root at the folder that holds {missing[0]}{instead}."
            )
        from condense._torchvision import torchvision

        try:
            with redirect_stdout(sys.stderr):
                sets = [getattr(torchvision.datasets, dataset)(root, download=download, **part) for part in parts]
        except Exception as error:  # each set fails in its own ways: network, checksum, format
            raise DataError(
                f"{name}: torchvision cannot read or fetch {dataset} under {root} ({error}). "
                f"If files there are damaged ({', '.join(files)}), delete them and run again with --download."
            ) from error
        train, test = (split(np.asarray(s.data), np.asarray(getattr(s, labels)), str(root)) for s in sets)
        return Raw(train, test, classes or tuple(sets[0].classes), f"torchvision {dataset}")

    return read


def _mnist_files(folder: str) -> tuple[str, ...]:
    return tuple(
        f"{folder}/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    )


_read_cifar10_torchvision = torchvision_reader(
    "cifar10",
    "CIFAR10",
    (*(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)), "cifar-10-batches-py/test_batch"),
    instead=f" or the binary version as {CIFAR10_BINARY} (unpack {CIFAR10_URL})",
)
read_cifar100 = torchvision_reader("cifar100", "CIFAR100", ("cifar-100-python/train", "cifar-100-python/test"))
read_mnist = torchvision_reader("mnist", "MNIST", _mnist_files("MNIST"), classes=DIGITS)
read_fashion_mnist = torchvision_reader("fashion_mnist", "FashionMNIST", _mnist_files("FashionMNIST"))
read_svhn = torchvision_reader(
    "svhn",
    "SVHN",
    ("train_32x32.mat", "test_32x32.mat"),
    parts=({"split": "train"}, {"split": "test"}),
    labels="labels",
    classes=DIGITS,
)
