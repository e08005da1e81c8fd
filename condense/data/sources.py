"""Data sets by name, and the one function that loads them."""

from dataclasses import dataclass
from pathlib import Path

from condense.cache import cache_dir
from condense.data import named
from condense.data.folder import read_folder
from condense.data.holdout import hold_out
from condense.data.npz import read_npz
from condense.data.raw import check, fingerprint
from condense.data.types import RealData
from condense.errors import ConfigError, DataError, unknown


@dataclass(frozen=True)
class Source:
    """A kind of data set: a one-line description, its reader, and whether a left-right flip keeps the class.

    The reader is given the data root, or the PATH of folder:PATH and npz:PATH.
    """

    summary: str
    read: named.Reader
    mirrored: bool = True


DATASETS: dict[str, Source] = {
    "digits": Source(
        "handwritten digits, 8x8 grey, 10 classes, 1,797 images, inside scikit-learn", named.read_digits, False
    ),
    "cifar10": Source("small photographs, 32x32 colour, 10 classes, 50,000 + 10,000 images", named.read_cifar10),
    "cifar100": Source("small photographs, 32x32 colour, 100 classes, 50,000 + 10,000 images", named.read_cifar100),
    "mnist": Source("handwritten digits, 28x28 grey, 10 classes, 60,000 + 10,000 images", named.read_mnist, False),
    "fashion_mnist": Source("clothes, 28x28 grey, 10 classes, 60,000 + 10,000 images", named.read_fashion_mnist),
    "svhn": Source("house numbers, 32x32 colour, 10 classes, 73,257 + 26,032 images", named.read_svhn, False),
    "folder:PATH": Source("your images, as PATH/train/CLASS/FILE and PATH/test/CLASS/FILE (or val/)", read_folder),
    "npz:PATH": Source("your arrays x_train, y_train, x_test, y_test in one file of numpy.savez", read_npz),
}


def find_source(name: str) -> tuple[Source, Path | None]:
    """The entry of `DATASETS` for `name`, and the PATH of folder:PATH or npz:PATH. Raises ConfigError if unknown."""
    kind, colon, path = name.partition(":")
    key = f"{kind}:PATH" if colon else kind
    if key not in DATASETS or (colon and not path):
        raise ConfigError(unknown("data set", name, DATASETS))
    return DATASETS[key], Path(path) if colon else None


def load_dataset(name: str, *, root: Path | None = None, download: bool = False, validation: float = 0.1) -> RealData:
    """Load the data set `name` of `DATASETS` to the CPU, and take a validation split out of its training set.

    `root` is the folder with the files of the named sets; None means data/ in the cache folder. With `download`,
    missing files are fetched to there. `validation` in [0, 1) is the fraction of each class that is held out, rounded,
    though one image at least stays in training; 0 gives an empty split. All runs share the split, whatever their seed.

    Raises ConfigError for an unknown name or a fraction out of range, DataError for data that are missing or damaged.
    """
    source, path = find_source(name)
    if not 0 <= validation < 1:
        raise ConfigError(f"validation = {validation}: the fraction held out must be at least 0 and less than 1.")
    if root is not None and not root.is_dir():
        raise DataError(f"data root {root}: no such folder. Create it, or give the one that holds the data.")
    raw = source.read(path or root or cache_dir() / "data", download)
    check(name, raw)
    train, held = hold_out(raw.train, validation, "validation split")
    return RealData(
        name=name if path is None else f"{name.partition(':')[0]}:{path.name}",
        train=train,
        validation=held,
        test=raw.test,
        classes=raw.classes,
        sha256=fingerprint(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels),
        source=raw.source,
        mirrored=source.mirrored,
    )
