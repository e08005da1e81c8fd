"""Reading data sets: shapes, ranges, splits, layouts, and what is said about data that are missing or wrong."""

import hashlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from condense.data import DATASETS, RealData, find_source, fingerprint, load_dataset, named
from condense.errors import ConfigError, DataError

Arrays = dict[str, Any]
NPZ_LABELS = {"y_train": np.array([0, 1, 2, 0, 1, 2]), "y_test": np.array([2, 1, 0])}


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def load_npz(tmp_path: Path, **arrays: Any) -> RealData:
    np.savez(tmp_path / "set.npz", **arrays)
    return load_dataset(f"npz:{tmp_path / 'set.npz'}", validation=0)


# digits, the validation split, the hash


def test_digits_are_scaled_to_bytes_and_split_by_class() -> None:
    data = load_dataset("digits", validation=0)
    assert (len(data.train), len(data.validation)) == (1797 - len(data.test), 0)
    assert data.train.images.shape[1:] == (1, 8, 8) and data.train.images.dtype == torch.uint8
    assert (data.channels, data.size, data.num_classes, data.mirrored) == (1, 8, 10, False)
    assert sorted(data.train.images.unique().tolist()) == [round(level * 255 / 16) for level in range(17)]
    whole = torch.cat([data.train.labels, data.test.labels]).bincount()
    assert data.test.labels.bincount().tolist() == [round(0.2 * n) for n in whole.tolist()]


def test_digits_stay_the_same_set() -> None:
    """Another hash means another test set: old results could no longer be compared."""
    assert load_dataset("digits").sha256 == "851ac1e1df7ecf89eede7a5a246b1e147196466a46584b83167090dfa2a125e3"


@pytest.mark.parametrize("validation", [0.1, 0.25])
def test_validation_is_held_out_of_training(validation: float) -> None:
    whole, data = load_dataset("digits", validation=0), load_dataset("digits", validation=validation)
    counts = whole.train.labels.bincount().tolist()
    assert data.validation.labels.bincount().tolist() == [round(validation * n) for n in counts]

    def rows(*splits: Any) -> list[Any]:
        return sorted((int(y), x.flatten().tolist()) for s in splits for x, y in zip(s.images, s.labels, strict=True))

    assert rows(data.train, data.validation) == rows(whole.train)
    assert torch.equal(data.test.images, whole.test.images) and data.sha256 == whole.sha256


def test_split_does_not_depend_on_the_global_seed() -> None:
    torch.manual_seed(1)
    first = load_dataset("digits")
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    second = load_dataset("digits")
    assert torch.equal(first.validation.images, second.validation.images)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_class_keeps_an_image_in_training(tmp_path: Path) -> None:
    y = np.array([0] * 10 + [1])
    np.savez(
        tmp_path / "a.npz", x_train=random_images(11, 4, 4), y_train=y, x_test=random_images(2, 4, 4), y_test=y[:2]
    )
    data = load_dataset(f"npz:{tmp_path / 'a.npz'}", validation=0.99)
    assert data.train.labels.tolist() == [0, 1] and data.validation.labels.tolist() == [0] * 9


def test_fingerprint_is_sha256_of_type_shape_and_content() -> None:
    x = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    assert fingerprint(x) == hashlib.sha256(b"torch.uint8 [2, 3]\n" + bytes(range(6))).hexdigest()
    assert fingerprint(x.t().contiguous().t()) == fingerprint(x)
    assert len({fingerprint(x), fingerprint(x.flatten()), fingerprint(x.to(torch.int8)), fingerprint(x, x)}) == 4


# npz


@pytest.mark.parametrize(
    ("layout", "channels"), [("NHW", 1), ("NHWC", 1), ("NHWC", 3), ("NHWC", 5), ("NCHW", 1), ("NCHW", 3), ("NCHW", 5)]
)
def test_npz_layouts(tmp_path: Path, layout: str, channels: int) -> None:
    x_train, x_test = random_images(6, channels, 7, 7), random_images(3, channels, 7, 7, seed=1)
    change: Callable[[np.ndarray], np.ndarray] = {
        "NHW": lambda x: x[:, 0], "NHWC": lambda x: x.transpose(0, 2, 3, 1), "NCHW": lambda x: x
    }[layout]  # fmt: skip
    data = load_npz(tmp_path, x_train=change(x_train), x_test=change(x_test), **NPZ_LABELS)
    assert np.array_equal(data.train.images.numpy(), x_train) and np.array_equal(data.test.images.numpy(), x_test)
    assert data.train.labels.tolist() == NPZ_LABELS["y_train"].tolist() and data.classes == ("0", "1", "2")
    assert data.train.images.is_contiguous() and data.mirrored


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
def test_npz_float_images_become_float32(tmp_path: Path, dtype: str) -> None:
    x = np.linspace(0, 1, 9 * 16).reshape(9, 4, 4).astype(dtype)
    labels = {key: y.astype(">i2") for key, y in NPZ_LABELS.items()}
    data = load_npz(tmp_path, x_train=x[:6], x_test=x[6:], **labels)
    assert data.train.images.dtype == torch.float32 and data.train.labels.dtype == torch.int64
    assert np.array_equal(data.train.images[:, 0].numpy(), x[:6].astype(np.float32))


X = random_images(6, 4, 4)
BAD_NPZ: dict[str, tuple[Arrays, str]] = {
    "not square": ({"x_train": random_images(6, 4, 5)}, r"x_train: images must be square.*\[6, 4, 5\]"),
    "not images": ({"x_train": random_images(6, 16)}, r"x_train: images must be square.*\[6, 16\]"),
    "axis unclear": ({"x_train": random_images(6, 4, 4, 4)}, "which axis holds the channels"),
    "no images": ({"x_test": X[:0], "y_test": np.zeros(0, int)}, "x_test: .*empty"),
    "other size": ({"x_test": random_images(3, 5, 5)}, r"\[1, 4, 4\].*\[1, 5, 5\].*one shape"),
    "other type": ({"x_test": X[:3] / 255}, "uint8.*float32.*one shape and type"),
    "integers": ({"x_train": X.astype(np.int64)}, "x_train must be uint8 .* or float .*not int64"),
    "bytes as floats": ({"x_train": X.astype(np.float32)}, r"x_train: float images must be in \[0, 1\].* to 248"),
    "NaN": ({"x_train": np.full((6, 4, 4), np.nan)}, r"must be in \[0, 1\].*nan"),
    "short labels": ({"y_train": np.array([0, 1, 2])}, r"6 images need labels of shape \[6\], not \[3\]"),
    "one-hot labels": ({"y_test": np.eye(3, dtype=int)}, r"not \[3, 3\]"),
    "float labels": ({"y_train": np.zeros(6)}, "y_train must hold integers .*not float64"),
    "gap in labels": ({"y_train": np.array([0, 1, 3, 0, 1, 3])}, "3 different labels from 0 to 3.*Renumber"),
    "labels from 1": ({"y_train": np.array([1, 2, 3, 1, 2, 3])}, "from 1 to 3"),
    "huge label": ({"y_train": np.array([0, 1, 2, 2, 1, 2**40])}, "Renumber"),
    "new test label": ({"y_test": np.array([0, 1, 3])}, r"test labels reach from 0 to 3, .*0\.\.2 are allowed"),
    "negative label": ({"y_test": np.array([0, 1, -1])}, "test labels reach from -1"),
    "one class": ({"y_train": np.zeros(6, int), "y_test": np.zeros(3, int)}, "at least two classes"),
    "pickled objects": ({"y_train": np.array([0, 1, 2, None, 1, 2])}, "arrays of objects are not read"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz_is_refused(tmp_path: Path, case: str) -> None:
    change, words = BAD_NPZ[case]
    with pytest.raises(DataError, match=words):
        load_npz(tmp_path, **{"x_train": X, "x_test": X[:3], **NPZ_LABELS, **change})


def test_bad_npz_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no array y_train, x_test, y_test"):
        load_npz(tmp_path, x_train=X)
    good = tmp_path / "good.npz"
    np.savez(good, x_train=X, x_test=X[:3], **NPZ_LABELS)
    np.save(tmp_path / "array.npy", X)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "half.npz").write_bytes(good.read_bytes()[:500])
    (tmp_path / "empty.npz").touch()
    damaged = bytearray(good.read_bytes())
    damaged[180] ^= 1  # a pixel of x_train: the zip's own checksum fails
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for name in ("array.npy", "text.npz", "half.npz", "empty.npz", "damaged.npz"):
        with pytest.raises(DataError, match=f"{name}: not an npz file"):
            load_dataset(f"npz:{tmp_path / name}")
    with pytest.raises(DataError, match=r"npz file .*nothing\.npz: not there.*numpy\.savez"):
        load_dataset(f"npz:{tmp_path / 'nothing.npz'}")


# folder


def write_folder(root: Path, mode: str, test: str = "test") -> dict[str, np.ndarray]:
    """Three classes with 3, 2, 1 training images and one test image each, 6x6; returns the pixels by relative path."""
    files = {f"train/{c}/{i}.png": None for c, n in (("cat", 3), ("dog", 2), ("ant", 1)) for i in range(n)}
    files |= {f"{test}/{c}/t.png": None for c in ("cat", "dog", "ant")}
    pixels = {f: random_images(*((6, 6) if mode == "L" else (6, 6, 3)), seed=i) for i, f in enumerate(files)}
    for name, values in pixels.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / name)
    return pixels


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
@pytest.mark.parametrize("test", ["test", "val"])
def test_folder_round_trip(tmp_path: Path, mode: str, channels: int, test: str) -> None:
    pixels = write_folder(tmp_path, mode, test)
    (tmp_path / "train" / ".DS_Store").touch()
    data = load_dataset(f"folder:{tmp_path}", validation=0)
    assert data.classes == ("ant", "cat", "dog") and data.train.labels.tolist() == [0, 1, 1, 1, 2, 2]
    files = ["train/ant/0.png", *(f"train/cat/{i}.png" for i in range(3)), "train/dog/0.png", "train/dog/1.png"]
    expected = np.stack([pixels[f].reshape(6, 6, channels).transpose(2, 0, 1) for f in files])
    assert np.array_equal(data.train.images.numpy(), expected)
    assert data.test.images.shape == (3, channels, 6, 6) and data.test.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("grey", ["train/ant/0.png", "train/dog/1.png", "test/dog/t.png"])
def test_a_grey_image_among_coloured_ones_is_coloured(tmp_path: Path, grey: str) -> None:
    write_folder(tmp_path, "RGB")
    plain = random_images(6, 6, seed=9)
    Image.fromarray(plain).save(tmp_path / grey)
    data = load_dataset(f"folder:{tmp_path}", validation=0)
    rows = {"train/ant/0.png": data.train.images[0], "train/dog/1.png": data.train.images[5]}
    found = rows.get(grey, data.test.images[2])
    with Image.open(tmp_path / grey) as image:
        assert np.array_equal(found.numpy(), np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    assert data.train.images.shape == (6, 3, 6, 6) and data.test.images.shape == (3, 3, 6, 6)


def _save(mode: str, size: tuple[int, int]) -> Callable[[Path], None]:
    return lambda root: Image.new(mode, size).save(root / "train" / "cat" / "1.png")


def _save_all(mode: str, size: tuple[int, int]) -> Callable[[Path], None]:
    return lambda root: [Image.new(mode, size).save(file) for file in root.rglob("*.png")] and None


BAD_FOLDER: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other size": (_save("RGB", (5, 5)), r"cat/1\.png: 5x5, but .*ant/0\.png is 6x6.*resize\(\(6, 6\)\)"),
    "not square": (_save_all("RGB", (6, 5)), "a 6x5 image of mode RGB; allowed are square.*resize"),
    "transparent": (_save_all("RGBA", (6, 6)), "6x6 image of mode RGBA; allowed .*L or RGB"),
    "not an image": (lambda r: (r / "train/dog/0.png").write_text("?"), r"dog/0\.png: not an image"),
    "half an image": (
        lambda r: (r / "train/dog/0.png").write_bytes((r / "train/dog/0.png").read_bytes()[:60]), r"dog/0\.png: not an"
    ),
    "folder for a file": (lambda r: (r / "train/dog/images").mkdir(), "dog/images: not an image"),
    "file for a class": (lambda r: (r / "train/notes.txt").touch(), r"same class folders.*notes\.txt"),
    "other classes": (lambda r: (r / "test/cat").rename(r / "test/cow"), r"differ in \['cat', 'cow'\]"),
    "empty class": (lambda r: (r / "train/ant/0.png").unlink(), "class 'ant' has no training image"),
    "both tests": (lambda r: (r / "val").mkdir(), "both test/ and val/"),
    "no test": (lambda r: (r / "test").rename(r / "later"), "no train/ together with test/ or val/"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FOLDER)
def test_bad_folder_is_refused(tmp_path: Path, case: str) -> None:
    spoil, words = BAD_FOLDER[case]
    write_folder(tmp_path, "RGB")
    spoil(tmp_path)
    with pytest.raises(DataError, match=words):
        load_dataset(f"folder:{tmp_path}")


# cifar10, and the sets that torchvision reads


def write_cifar10(root: Path) -> dict[str, np.ndarray]:
    """Two records in each of the six files: label, then the red, green and blue plane."""
    records = {name: random_images(2, 3073, seed=i) for i, name in enumerate(named.CIFAR10_SHA256)}
    (root / "cifar-10-batches-bin").mkdir()
    for i, (name, values) in enumerate(records.items()):
        values[:, 0] = (2 * i) % 10, (2 * i + 1) % 10
        values.tofile(root / "cifar-10-batches-bin" / name)
    return records


def test_cifar10_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = write_cifar10(tmp_path)
    sums = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in records.items()}
    monkeypatch.setattr(named, "CIFAR10_SHA256", sums)
    data = load_dataset("cifar10", root=tmp_path, validation=0)
    assert data.train.images.shape == (10, 3, 32, 32) and data.test.images.shape == (2, 3, 32, 32)
    second = records["data_batch_2.bin"][1]
    assert data.train.labels[3] == second[0] and data.classes[3] == "cat"
    assert data.train.images[3, 1, 2, 5] == second[1 + 1 * 1024 + 2 * 32 + 5]
    assert np.array_equal(data.test.images[0].flatten().numpy(), records["test_batch.bin"][0, 1:])


def test_cifar10_with_a_wrong_checksum_is_refused_by_name(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(DataError, match=r"data_batch_1\.bin is damaged.*SHA-256.*cee91656.*cifar-10-binary\.tar\.gz"):
        load_dataset("cifar10", root=tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_1\.bin is missing.*cifar-10-binary\.tar\.gz"):
        load_dataset("cifar10", root=tmp_path)


def write_idx(file: Path, values: np.ndarray) -> None:
    """The idx format of http://yann.lecun.com/exdb/mnist: zero, type 8 (bytes), dimensions, big-endian sizes, data."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_sets(tmp_path: Path, name: str, folder: str) -> None:
    raw, images = tmp_path / folder / "raw", random_images(30, 28, 28)
    labels = np.arange(30, dtype=np.uint8) % 10
    for part, chosen in (("train", slice(20)), ("t10k", slice(20, 30))):
        write_idx(raw / f"{part}-images-idx3-ubyte", images[chosen])
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels[chosen])
    data = load_dataset(name, root=tmp_path, validation=0)
    assert np.array_equal(data.train.images[:, 0].numpy(), images[:20]) and data.test.labels.tolist() == list(range(10))
    assert data.mirrored == (name == "fashion_mnist") and data.num_classes == 10
    half = raw / "train-images-idx3-ubyte"
    half.write_bytes(half.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name}: torchvision cannot read.*train-images-idx3-ubyte.*--download"):
        load_dataset(name, root=tmp_path)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    from condense._torchvision import torchvision

    images, labels = random_images(32, 32, 3, 20), np.tile(np.arange(1, 11), 2)[:, None]  # label 10 is the digit 0
    parts = {}
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": labels})
        parts[part] = ["", f"{part}_32x32.mat", md5(tmp_path / f"{part}_32x32.mat")]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", parts)
    data = load_dataset("svhn", root=tmp_path, validation=0)
    assert data.train.labels.tolist() == [*range(1, 10), 0] * 2 and not data.mirrored
    assert np.array_equal(data.train.images.numpy(), images.transpose(3, 2, 0, 1))


@pytest.mark.parametrize(
    ("name", "dataset", "folder", "key"),
    [
        ("cifar10", "CIFAR10", "cifar-10-batches-py", "labels"),
        ("cifar100", "CIFAR100", "cifar-100-python", "fine_labels"),
    ],
)
def test_python_versions_of_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dataset: str, folder: str, key: str
) -> None:
    from condense._torchvision import torchvision

    (tmp_path / folder).mkdir()
    kind = getattr(torchvision.datasets, dataset)
    count = len(kind.train_list)
    pixels, labels = random_images(10, 3072), list(range(10))

    def write(file: str, content: Any) -> str:
        (tmp_path / folder / file).write_bytes(pickle.dumps(content))
        return md5(tmp_path / folder / file)

    for attribute in ("train_list", "test_list"):
        files = [[file, write(file, {"data": pixels, key: labels})] for file, _ in getattr(kind, attribute)]
        monkeypatch.setattr(kind, attribute, files)
    meta = kind.meta["filename"]
    names = [f"class {i}" for i in range(10)]
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": write(meta, {kind.meta["key"]: names})})
    data = load_dataset(name, root=tmp_path, validation=0)
    assert np.array_equal(data.train.images.numpy(), np.tile(pixels, (count, 1)).reshape(-1, 3, 32, 32))
    assert data.test.labels.tolist() == labels and data.classes == tuple(names) and data.mirrored


MISSING = {
    "cifar10": "cifar-10-batches-py/data_batch_1 is missing.*--download.*cifar-10-batches-bin",
    "cifar100": "cifar-100-python/train is missing.*--download",
    "mnist": "MNIST/raw/train-images-idx3-ubyte is missing.*--download",
    "fashion_mnist": "FashionMNIST/raw/train-images-idx3-ubyte is missing.*--download",
    "svhn": "train_32x32.mat is missing.*--download",
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_files_are_named_with_the_way_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/{MISSING[name]}"):
        load_dataset(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=f"{tmp_path}/cache/data/{MISSING[name]}"):
        load_dataset(name)


def test_download_is_asked_for_and_its_failure_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from condense._torchvision import torchvision

    def download(self: Any) -> None:
        raise OSError(f"no route to {self.url}")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    for name in ("cifar10", "cifar100"):
        with pytest.raises(DataError, match=f"{name}: torchvision cannot read or fetch .*no route to https"):
            load_dataset(name, root=tmp_path, download=True)


# names and options


def test_every_set_is_known_and_described() -> None:
    assert list(DATASETS) == [
        "digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "folder:PATH", "npz:PATH"
    ]  # fmt: skip
    assert {name for name, source in DATASETS.items() if not source.mirrored} == {"digits", "mnist", "svhn"}
    assert all(source.summary and "\n" not in source.summary for source in DATASETS.values())
    assert find_source("npz:some/where.npz") == (DATASETS["npz:PATH"], Path("some/where.npz"))


def test_bad_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'fashion-mnist'\. Did you mean 'fashion_mnist'"):
        load_dataset("fashion-mnist")
    for name in ("folder:", "npz", "digits:x"):
        with pytest.raises(ConfigError, match=r"Allowed: .*folder:PATH"):
            load_dataset(name)
    for validation in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="at least 0 and less than 1"):
            load_dataset("digits", validation=validation)
    with pytest.raises(DataError, match=f"data root {tmp_path}/no: no such folder"):
        load_dataset("digits", root=tmp_path / "no")


@pytest.mark.slow
@pytest.mark.skipif("CONDENSE_DATA" not in os.environ, reason="CONDENSE_DATA names no folder of real data")
@pytest.mark.parametrize(
    ("name", "sizes", "mean", "std"),
    [
        ("cifar10", (50_000, 10_000), [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ("mnist", (60_000, 10_000), [0.1307], [0.3081]),
        ("fashion_mnist", (60_000, 10_000), [0.2860], [0.3530]),
    ],
)
def test_real_sets_have_the_published_statistics(
    name: str, sizes: tuple[int, int], mean: list[float], std: list[float]
) -> None:
    data = load_dataset(name, root=Path(os.environ["CONDENSE_DATA"]), validation=0)
    assert (len(data.train), len(data.test)) == sizes
    x = data.train.images.numpy() / 255
    np.testing.assert_allclose(x.mean((0, 2, 3)), mean, atol=1e-4)
    np.testing.assert_allclose(x.std((0, 2, 3)), std, atol=1e-4)
