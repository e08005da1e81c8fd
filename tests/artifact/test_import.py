"""Sets of other programs become ours: what is stated, nothing guessed, and nothing written where something is wrong."""

import csv
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from artifact_examples import CLASSES
from PIL import Image
from torch import Tensor

from condense import api
from condense.artifact import (
    DatasetRecord,
    MethodRecord,
    add_evaluations,
    export,
    fit_to,
    load_artifact,
    read_set,
    save_artifact,
)
from condense.cli import main
from condense.config import MIRROR_FREE
from condense.data import Preprocessing, RealData, Split, fit_preprocessing, load_dataset
from condense.errors import ArtifactError, CondenseError, ConfigError
from condense.synthetic import DistilledSet

DRAWS = torch.Generator().manual_seed(0)
IMAGES = torch.randn(20, 1, 8, 8, generator=DRAWS)
PIXELS = torch.randint(256, (20, 1, 8, 8), generator=DRAWS, dtype=torch.uint8)
HARD = torch.arange(10).repeat(2)
SOFT = torch.randn(20, 10, generator=DRAWS).softmax(1)
STATED = {"mean": torch.tensor([0.3]), "std": torch.tensor([0.4])}
ROOT = torch.randn(64, 64, generator=DRAWS, dtype=torch.float64)
MATRIX = torch.eye(64, dtype=torch.float64) + 0.1 * ROOT @ ROOT.T / 64
ZCA = {
    "mean": torch.rand(64, generator=DRAWS),
    "matrix": MATRIX.float(),
    "inverse": MATRIX.inverse().float().contiguous(),
}
WRITERS: dict[str, Callable[[Path, dict[str, Tensor]], None]] = {
    ".pt": lambda path, tensors: torch.save(tensors, path),
    ".pth": lambda path, tensors: torch.save(tensors, path),
    ".npz": lambda path, tensors: np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()}),
    ".safetensors": lambda path, tensors: safetensors.torch.save_file(tensors, path),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def digits() -> RealData:
    return load_dataset("digits")


def write(path: Path, **tensors: Any) -> Path:
    WRITERS[path.suffix](path, tensors)
    return path


def ours(folder: Path, digits: RealData, kind: str, labels: Tensor, **changes: Any) -> Path:
    """An artifact of digits as a run writes it."""
    return save_artifact(
        folder,
        DistilledSet(IMAGES, labels, **{"lr": 0.1, **changes}),
        preprocessing=Preprocessing.from_tensors(kind, STATED if kind == "mean_std" else ZCA),
        classes=digits.classes,
        method=MethodRecord(name="mtt", ipc=2, citation="somebody"),
        dataset=DatasetRecord(name="digits", sha256=digits.sha256, source=digits.source),
        config={"dataset": "digits", "dsa": MIRROR_FREE},
        provenance={},
    )


# --- what comes back


@pytest.mark.parametrize("format", ["pt", "npz"])
@pytest.mark.parametrize("kind", ["mean_std", "zca"])
@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("lr", [None, 0.1 + 0.2])
def test_our_exports_come_back_to_the_bit(
    tmp_path: Path, digits: RealData, format: str, kind: str, labels: Tensor, lr: float | None
) -> None:
    first = ours(tmp_path / "first", digits, kind, labels, lr=lr)
    export(load_artifact(first), tmp_path / f"out.{format}", format)
    again = load_artifact(api.import_set(tmp_path / f"out.{format}", tmp_path / "again", dataset="digits"))
    assert (tmp_path / "again" / "data.safetensors").read_bytes() == (first / "data.safetensors").read_bytes()
    assert again.lr == lr and again.classes == digits.classes
    assert again.manifest.dataset == load_artifact(first).manifest.dataset


def test_mosaics_come_back_as_the_images_to_train_on(tmp_path: Path, digits: RealData) -> None:
    first = load_artifact(ours(tmp_path / "first", digits, "mean_std", HARD, factor=2))
    export(first, tmp_path / "out.npz", "npz")
    again = load_artifact(api.import_set(tmp_path / "out.npz", tmp_path / "again", dataset="digits"))
    assert len(again) == 80 and torch.equal(again.images, first.images) and torch.equal(again.labels, first.labels)


@pytest.mark.parametrize("count", [1, 3])
def test_the_results_file_of_the_dc_code(tmp_path: Path, count: int) -> None:
    """Its experiments' images and labels, and accuracies as numpy gives them."""
    source, stated = tmp_path / "res_DC_ConvNet_2ipc.pt", {"mean": [0.3], "std": [0.4], "dataset": "digits"}
    sets = [[(IMAGES + k).requires_grad_(), HARD] for k in range(count)]
    accuracies = {"ConvNet": [np.float64(0.5), np.float32(0.25), np.int64(1)]}
    torch.save({"data": sets, "accs_all_exps": accuracies}, source)
    for k in range(count):
        made = load_artifact(api.import_set(source, tmp_path / str(k), index=k, **stated))
        assert torch.equal(made.images, IMAGES + k) and torch.equal(made.labels, HARD)
    with pytest.raises(ConfigError, match=rf"--index {count}: .* holds {count} set"):
        api.import_set(source, tmp_path / "out", index=count, **stated)
    if count == 1:
        torch.save({"data": sets, "accs_all_exps": accuracies}, source, _use_new_zipfile_serialization=False)
        source.write_bytes(source.read_bytes().replace(b"numpy._core.", b"numpy.core."))  # as numpy 1 calls it
        api.import_set(source, tmp_path / "out", **stated)
        return
    with pytest.raises(ConfigError, match="Say which one, by --index 0 to 2"):
        api.import_set(source, tmp_path / "out", **stated)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_files_that_bring_mean_and_std(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    images, shaped = IMAGES.to(dtype), {name: tensor.double().view(1, 1, 1) for name, tensor in STATED.items()}
    source = write(tmp_path / f"set{suffix}", images=images, labels=HARD.to(torch.uint8), other=torch.ones(3), **shaped)
    made = load_artifact(
        api.import_set(source, tmp_path / "out", dataset="digits", method="DC", citation="them", lr=0.5)
    )
    assert torch.equal(made.images, images.float()) and torch.equal(made.labels, HARD)
    assert made.preprocessing.kind == "mean_std"
    assert all(torch.equal(made.preprocessing.values[name], STATED[name]) for name in STATED)
    assert made.lr == 0.5
    assert (made.manifest.method.name, made.manifest.method.ipc, made.manifest.method.citation) == ("DC", 2, "them")


@pytest.mark.parametrize("kind", [list, tuple])
def test_pairs_and_lone_tensors(tmp_path: Path, kind: type) -> None:
    stated = {"mean": [0.3], "std": [0.4], "dataset": "digits"}
    torch.save(kind([IMAGES.clone().requires_grad_(), SOFT]), tmp_path / "pair.pt")
    torch.save(torch.nn.Parameter(IMAGES), tmp_path / "images_best.pt")
    torch.save(SOFT, tmp_path / "labels_best.pt")
    first = api.import_set(tmp_path / "pair.pt", tmp_path / "a", **stated)
    second = api.import_set(tmp_path / "images_best.pt", tmp_path / "b", labels=tmp_path / "labels_best.pt", **stated)
    third = api.import_set(tmp_path / "images_best.pt", tmp_path / "c", labels=tmp_path / "pair.pt", **stated)
    for made in (first, second, third):
        artifact = load_artifact(made)
        assert torch.equal(artifact.images, IMAGES) and torch.equal(artifact.labels, SOFT)
    origins = load_artifact(second).manifest.provenance
    sha256 = hashlib.sha256((tmp_path / "labels_best.pt").read_bytes()).hexdigest()
    assert origins["labels"] == f"imported from labels_best.pt, SHA-256 {sha256}"


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("prefix", ["", "preprocessing."])
def test_a_whitening_in_a_file_of_its_own(tmp_path: Path, suffix: str, prefix: str) -> None:
    zca = tmp_path / f"zca{suffix}"
    WRITERS[suffix](zca, {prefix + name: tensor for name, tensor in ZCA.items()})
    source = write(tmp_path / "set.npz", images=IMAGES, labels=HARD)
    made = load_artifact(api.import_set(source, tmp_path / "out", dataset="digits", zca=zca))
    assert torch.equal(made.images, IMAGES) and made.preprocessing.kind == "zca"
    assert all(torch.equal(made.preprocessing.values[name], ZCA[name]) for name in ZCA)
    assert made.manifest.provenance["preprocessing"].startswith(f"imported from zca{suffix}, SHA-256 ")


@pytest.mark.parametrize("kind", ["mean_std", "zca"])
def test_pixels_are_preprocessed_as_in_a_run(tmp_path: Path, digits: RealData, kind: str) -> None:
    """uint8 arrays, whose type says what they are."""
    source = write(tmp_path / "set.npz", images=PIXELS, labels=HARD)
    made = load_artifact(api.import_set(source, tmp_path / "out", dataset="digits", preprocessing=kind))
    fitted = fit_preprocessing(kind, digits, None)
    assert torch.equal(made.images, fitted(PIXELS))
    torch.testing.assert_close(made.pixels(), PIXELS / 255, atol=1e-4, rtol=0)
    assert made.manifest.provenance["preprocessing"] == f"{kind}, fitted to the training images"


def test_pixels_with_a_mean_and_std_of_their_own(tmp_path: Path) -> None:
    source = write(tmp_path / "set.npz", images=PIXELS, labels=HARD, **STATED)
    made = load_artifact(api.import_set(source, tmp_path / "out", dataset="digits"))
    np.testing.assert_allclose(made.images.numpy(), (PIXELS.numpy() / 255 - 0.3) / 0.4, atol=1e-6)


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("format", ["png", "folder"])
def test_our_pictures_come_back(tmp_path: Path, digits: RealData, format: str, labels: Tensor) -> None:
    """The 8-bit levels that Pillow reads, class by class, through the map fitted to the digits."""
    first = ours(tmp_path / "first", digits, "mean_std", labels)
    export(load_artifact(first), tmp_path / "out", format)
    made = load_artifact(
        api.import_set(tmp_path / "out", tmp_path / "again", dataset="digits", preprocessing="mean_std")
    )
    train = digits.train.images.numpy() / 255
    levels = (load_artifact(first).pixels() * 255).round().numpy()
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    order = range(20) if format == "png" else classes.argsort(stable=True)
    np.testing.assert_allclose(made.images.numpy(), (levels[order] / 255 - train.mean()) / train.std(), atol=1e-5)
    assert torch.equal(made.labels, labels if format == "png" else classes[order])


def test_class_folders_as_torchvision_reads_them(tmp_path: Path) -> None:
    """The origin of a folder is the SHA-256 of what sha256sum prints for its files in order."""
    sums = []
    for k in range(10):
        (tmp_path / "set" / f"new{k:03d}").mkdir(parents=True)
        file = tmp_path / "set" / f"new{k:03d}" / "class_id.png"
        Image.fromarray(PIXELS[k, 0].numpy()).save(file)
        sums.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  new{k:03d}/class_id.png\n")
    made = load_artifact(api.import_set(tmp_path / "set", tmp_path / "out", dataset="digits", mean=[0], std=[1]))
    assert torch.equal(made.images, PIXELS[:10] / 255) and torch.equal(made.labels, torch.arange(10))
    sha256 = hashlib.sha256("".join(sums).encode()).hexdigest()
    assert made.manifest.provenance["images"] == f"imported from set, SHA-256 {sha256}"


def real(classes: tuple[str, ...]) -> RealData:
    one = Split(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    return RealData("toy", one, one, one, classes, "0" * 64, "here", mirrored=True)


@pytest.mark.parametrize("names", [("bee", "ant", "cat/dog"), ("cat/dog", "ant", "bee")])
def test_names_of_classes_decide(tmp_path: Path, names: tuple[str, ...]) -> None:
    soft = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.25, 0.75]])
    for labels in (torch.tensor([0, 2, 1]), soft):
        torch.save({"images": IMAGES[:3], "labels": labels, "classes": list(names)}, tmp_path / "set.pt")
        made = fit_to(read_set(tmp_path / "set.pt"), real(CLASSES), tmp_path / "set.pt").labels
        for row, label in zip(made.tolist(), labels.tolist(), strict=True):
            if labels.ndim == 1:
                assert CLASSES[row] == names[label]
            else:
                assert dict(zip(CLASSES, row, strict=True)) == dict(zip(names, label, strict=True))


def test_other_names_count_by_their_place(tmp_path: Path) -> None:
    torch.save({"images": IMAGES[:3], "labels": HARD[:3], "classes": ["a", "c", "b"]}, tmp_path / "set.pt")
    assert torch.equal(fit_to(read_set(tmp_path / "set.pt"), real(CLASSES), tmp_path).labels, HARD[:3])


def test_numbers_whose_alphabetical_order_is_another_are_refused(tmp_path: Path) -> None:
    for k in range(11):
        (tmp_path / f"{k}").mkdir()
        Image.fromarray(PIXELS[k, 0].numpy()).save(tmp_path / f"{k}" / "0.png")
    read = read_set(tmp_path)
    with pytest.raises(ArtifactError, match=r"0, 1, 10, \.\.\., which is not their own. Put zeros in front"):
        fit_to(read, real(tuple("abcdefghijk")), tmp_path)
    by_name = fit_to(read, real(tuple(str(k) for k in range(11))), tmp_path)
    assert by_name.labels.tolist() == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]


# --- what the manifest says, and evaluation


def test_an_imported_set_is_evaluated_like_the_original(tmp_path: Path, digits: RealData) -> None:
    first = ours(tmp_path / "first", digits, "mean_std", HARD)
    export(load_artifact(first), tmp_path / "out.npz", "npz")
    again = api.import_set(tmp_path / "out.npz", tmp_path / "again", dataset="digits")
    assert load_artifact(again).manifest.config["eval_networks"] == ["convnet"]
    keys = {"eval_networks": "convnet:width=4", "eval_repeats": 1}
    evaluations = [api.evaluate_artifact(made, **keys) for made in (first, again)]
    assert evaluations[0] == evaluations[1] and evaluations[0][0].lr == 0.1
    assert [record.values for record in load_artifact(again).manifest.evaluations] == [evaluations[1][0].values]


def test_the_manifest_says_where_all_comes_from(tmp_path: Path) -> None:
    source = write(tmp_path / "set.npz", images=IMAGES, labels=HARD, lr=torch.tensor(0.25, dtype=torch.float64))
    made = api.import_set(source, tmp_path / "out", dataset="digits", data_root=tmp_path, mean=[0.3], std=[0.4])
    manifest = add_evaluations(made, [])
    origin = f"imported from set.npz, SHA-256 {hashlib.sha256(source.read_bytes()).hexdigest()}"
    wanted = {"images": origin, "labels": origin, "lr": origin, "preprocessing": "--mean and --std"}
    wanted |= {"dataset": "import", "data_root": "import", "dsa": "data set digits", "protocol": "default"}
    assert manifest.provenance.items() >= wanted.items()
    assert manifest.provenance.keys() == manifest.config.keys() | wanted.keys()
    assert manifest.method.name == "imported" and manifest.lr == 0.25 and manifest.evaluations == ()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(write(tmp_path / "set.npz", images=IMAGES, labels=HARD))
    out = str(tmp_path / "out")
    flags = ["import", source, "--out", out, "--dataset", "digits"]

    def code(*more: str) -> Any:
        with pytest.raises(SystemExit) as stopped:
            main([*flags, *more])
        return stopped.value.code

    assert code("--mean", "0.3,x", "--std", "0.4") == 2
    assert "--mean 0.3,x: must be numbers separated by commas" in capsys.readouterr().err
    assert code() == 2
    assert code("--mean", "0.3,0.3", "--std", "0.4,0.4") == 3
    assert not Path(out).exists()
    assert code("--mean", "0.3", "--std", "0.4", "--method", "theirs", "--citation", "x", "--lr", "0.5") == 0
    assert f"`condense eval {out}` evaluates it" in capsys.readouterr().err
    made = load_artifact(out)
    assert made.lr == 0.5 and made.preprocessing.values["std"].tolist() == pytest.approx([0.4])


# --- what is refused


def nan_images() -> Tensor:
    images = IMAGES.clone()
    images[3, 0, 2, 2] = torch.nan
    return images


GOOD: dict[str, Any] = {"images": IMAGES, "labels": HARD, **STATED}
NO_MAP = {"mean": None, "std": None}
BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no images": ({"images": None}, {}, "no images; it holds labels, mean, std"),
    "no labels": ({"labels": None}, {}, r"no labels; it holds images, mean, std\. Give --labels"),
    "flat images": ({"images": IMAGES.flatten(1)}, {}, r"images must be square, .* not \[20, 64\]"),
    "not square": ({"images": IMAGES[:, :, :4]}, {}, r"must be square, .* not \[20, 1, 4, 8\]"),
    "no image": ({"images": IMAGES[:0], "labels": HARD[:0]}, {}, "n >= 1"),
    "integers": ({"images": IMAGES.long()}, {}, "uint8 pixels or floating-point network input, not torch.int64"),
    "complex": ({"images": IMAGES.cfloat()}, {}, "not torch.complex64"),
    "NaN": ({"images": nan_images()}, {}, "NaN or infinite"),
    "too large for float32": ({"images": IMAGES.double() * 1e300}, {}, "NaN or infinite"),
    "another size": ({"images": IMAGES[:, :, :4, :4]}, {}, r"images are \[1, 4, 4\], those of digits \[1, 8, 8\]"),
    "another number of channels": (
        {"images": IMAGES.expand(20, 3, 8, 8).clone(), "mean": torch.ones(3), "std": torch.ones(3)},
        {},
        r"images are \[3, 8, 8\], those of digits \[1, 8, 8\]",
    ),
    "too few labels": ({"labels": HARD[:-1]}, {}, "19 labels for 20 images"),
    "a class too many": ({"labels": HARD + 1}, {}, r"labels lie in 1\.\.10, but 10 classes allow 0\.\.9"),
    "negative label": ({"labels": HARD - 1}, {}, r"labels lie in -1\.\.8"),
    "labels as floats": (
        {"labels": HARD.float()},
        {},
        r"integers \[n\] or probabilities \[n, classes\], not torch.float32",
    ),
    "labels in a column": ({"labels": HARD[:, None]}, {}, r"not torch.int64 \[20, 1\]"),
    "truth values": ({"labels": HARD > 4}, {}, "not torch.bool"),
    "logits": ({"labels": SOFT.log()}, {}, "soft labels must be probabilities"),
    "NaN in labels": ({"labels": SOFT * torch.nan}, {}, "soft labels must be probabilities"),
    "sum is not 1": ({"labels": SOFT * 1.01}, {}, "soft labels must be probabilities"),
    "soft over other classes": ({"labels": SOFT[:, :9].softmax(1)}, {}, "9 classes, but digits has 10"),
    "nothing stated": (NO_MAP, {}, "nothing says what a number in the images means"),
    "stated twice": ({}, {"mean": [0.3], "std": [0.4]}, "stated twice: the set's own, --mean and --std"),
    "stated and fitted": (
        {"images": PIXELS},
        {"preprocessing": "mean_std"},
        "stated twice: the set's own, --preprocessing",
    ),
    "fitted for numbers that are no pixels": (
        NO_MAP,
        {"preprocessing": "zca"},
        "--preprocessing zca is for 8-bit pixels",
    ),
    "an unknown map": (NO_MAP | {"images": PIXELS}, {"preprocessing": "pca"}, "unknown preprocessing 'pca'"),
    "std alone, given": (NO_MAP, {"std": [0.4]}, "--mean and --std belong together"),
    "mean alone, in the file": ({"std": None}, {}, r"needs the tensors mean, std, not \['mean'\]"),
    "mean of three channels": ({"mean": torch.ones(3), "std": torch.ones(3)}, {}, "mean has 3 numbers; .* channel: 1"),
    "mean and std differ": ({"std": torch.ones(2)}, {}, "'std' must hold finite floats"),
    "std of 0": ({"std": torch.zeros(1)}, {}, r"std must be positive, not \[0\.0\]"),
    "std not finite": (NO_MAP, {"mean": [0.3], "std": [float("nan")]}, "'std' must hold finite floats"),
    "a matrix without inverse": ({"matrix": ZCA["matrix"]}, {}, "needs the tensors mean, matrix, inverse"),
    "a wrong inverse": ({"std": None, **ZCA, "inverse": ZCA["matrix"]}, {}, "inverse is not the inverse of matrix"),
    "whitening of other images": (
        {"std": None, "mean": torch.ones(3), "matrix": torch.eye(3), "inverse": torch.eye(3)},
        {},
        "mean has 3 numbers; .* pixel: 64",
    ),
    "two means": (
        {"preprocessing.mean": torch.ones(1)},
        {},
        "the same name with 'preprocessing.' in front and without",
    ),
    "lr twice": ({"lr": torch.tensor(0.1)}, {"lr": 0.2}, "brings its learned learning rate"),
    "lr of 0": ({"lr": torch.tensor(0.0)}, {}, "lr must be one positive number, not 0.0"),
    "several lr": ({"lr": torch.ones(2)}, {}, "lr must be one positive number"),
    "lr given as NaN": ({}, {"lr": float("nan")}, "lr = nan: a learning rate is positive"),
    "unknown data": ({}, {"dataset": "digit"}, "unknown data set 'digit'. Did you mean 'digits'"),
    "no data": ({}, {"dataset": "npz:none.npz"}, "none.npz: not there"),
    "labels twice": ({}, {"labels": "set.pt"}, "brings its labels, and --labels set.pt gives others"),
    "no such file": ({}, {"source": "none.pt"}, "none.pt: no such file or folder"),
    "no such zca": (NO_MAP, {"zca": "zca.pt"}, "zca.pt: no such file or folder"),
    "a zca without matrix": (NO_MAP, {"zca": "stated.npz"}, "no whitening: the tensors mean"),
    "another kind of file": (
        {},
        {"source": "set.h5"},
        r"not read; allowed: \.npz, \.pt, \.pth, \.safetensors, or a folder",
    ),
    "a name that is taken": ({}, {"out": "stated.npz"}, "exists and is not overwritten"),
}


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
@pytest.mark.parametrize("changes, arguments, message", BAD.values(), ids=BAD.keys())
def test_bad_sets_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    changes: dict[str, Any],
    arguments: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("set.pt"), images=IMAGES, labels=HARD)
    write(Path("stated.npz"), **STATED)
    Path("set.h5").write_bytes(b"")
    tensors = {name: tensor for name, tensor in {**GOOD, **changes}.items() if tensor is not None}
    write(Path(f"bad{suffix}"), **tensors)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CondenseError, match=message):
        api.import_set(**{"source": f"bad{suffix}", "out": "out", "dataset": "digits", **arguments})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


class Sneaky:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    sneaky = Sneaky(tmp_path / "it ran")
    torch.save({**GOOD, "other": sneaky}, tmp_path / "set.pt")
    np.savez(tmp_path / "set.npz", images=np.array([sneaky], object), labels=HARD.numpy())
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("set.pt", "set.npz", "module.pt"):
        with pytest.raises(ArtifactError, match=f"{name}: not a .* file of tensors and plain values .* could run code"):
            api.import_set(tmp_path / name, tmp_path / "out", dataset="digits")
    assert not (tmp_path / "it ran").exists() and not (tmp_path / "out").exists()
    np.savez(tmp_path / "set.npz", other=np.array([sneaky], object), **{k: v.numpy() for k, v in GOOD.items()})
    api.import_set(tmp_path / "set.npz", tmp_path / "out", dataset="digits")  # what is not looked at does no harm
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("suffix", WRITERS)
def test_damaged_files_are_refused(tmp_path: Path, suffix: str) -> None:
    """Cut anywhere, or something else altogether."""
    whole = write(tmp_path / f"whole{suffix}", **GOOD).read_bytes()
    cuts = [whole[: len(whole) * k // 40] for k in range(40)]
    for content in (*cuts, b"not a set", b"\x80\x02.", b"PK\x03\x04", np.lib.format.magic(1, 0)):
        (tmp_path / f"set{suffix}").write_bytes(content)
        with pytest.raises(ArtifactError, match=f"set{suffix}: not a {suffix} file|set{suffix}: no images"):
            read_set(tmp_path / f"set{suffix}")


@pytest.mark.parametrize("content", [3, "text", [IMAGES], [IMAGES, HARD, HARD], None, {"data": [3]}])
def test_other_contents_of_a_pt_file_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "set.pt")
    with pytest.raises(ArtifactError, match=r"must hold a dictionary, a tensor or a pair \(images, labels\)"):
        read_set(tmp_path / "set.pt")


def test_an_empty_list_of_sets_is_refused(tmp_path: Path) -> None:
    torch.save({"data": []}, tmp_path / "set.pt")
    with pytest.raises(ArtifactError, match="the list of sets is empty"):
        read_set(tmp_path / "set.pt")


@pytest.mark.parametrize("images", [[[0.5]], "text", IMAGES.to_sparse(), None])
def test_images_that_are_no_array_are_refused(tmp_path: Path, images: Any) -> None:
    torch.save({"images": images, "labels": HARD}, tmp_path / "set.pt")
    with pytest.raises(ArtifactError, match="images must be an array of numbers, not"):
        read_set(tmp_path / "set.pt")


def table(folder: Path, *rows: list[Any], header: tuple[str, ...] = ("file", "label")) -> None:
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def colour(folder: Path) -> None:
    (folder / "0").mkdir()
    Image.fromarray(PIXELS[0].expand(3, 8, 8).permute(1, 2, 0).numpy()).save(folder / "0" / "a.png")
    Image.fromarray(PIXELS[1, 0].numpy()).save(folder / "0" / "b.png")


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda folder: None, "no image in it"),  # noqa: ARG005
    "a file for a class": (lambda folder: (folder / "x").touch(), "x: expected a folder, one for each class"),
    "no picture": (lambda folder: ((folder / "0").mkdir(), (folder / "0" / "a.png").touch()), "not an image"),
    "a coloured one among grey ones": (colour, r"images are \[3, 8, 8\], those of digits \[1, 8, 8\]"),
    "empty table": (table, "must have the columns file and label"),
    "other columns": (lambda folder: table(folder, ["a.png", 0], header=("name", "label")), r"columns .* \('file'\)"),
    "a label in words": (lambda folder: table(folder, ["a.png", "zero"]), "columns file and label.*'zero'"),
    "a huge label": (lambda folder: table(folder, ["a.png", 10**30]), "columns file and label"),
    "a row too long": (
        lambda folder: table(folder, ["a.png", 0, 1, 2], header=("file", "label", "p0")),
        "columns file and label",
    ),
    "a short row": (lambda folder: table(folder, ["a.png"]), "columns file and label"),
    "a probability in words": (
        lambda folder: table(folder, ["a.png", 0, "x"], header=("file", "label", "p0")),
        "columns file and label.*'x'",
    ),
    "not UTF-8": (lambda folder: (folder / "labels.csv").write_bytes(b"\xff\xfe"), "must have the columns"),
    "a path": (lambda folder: table(folder, ["../a.png", 0]), r"'\.\./a\.png' is not the plain name of a file"),
    "no such picture": (lambda folder: table(folder, ["a.png", 0]), "a.png: not an image"),
}


@pytest.mark.parametrize("fill, message", FOLDERS.values(), ids=FOLDERS.keys())
def test_bad_folders_are_refused(tmp_path: Path, fill: Callable[[Path], Any], message: str) -> None:
    (tmp_path / "set").mkdir()
    fill(tmp_path / "set")
    with pytest.raises(CondenseError, match=message):
        api.import_set(tmp_path / "set", tmp_path / "out", dataset="digits", preprocessing="mean_std")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_too_few_classes_is_refused(tmp_path: Path) -> None:
    for k in range(9):
        (tmp_path / "set" / f"{k}").mkdir(parents=True)
        Image.fromarray(PIXELS[k, 0].numpy()).save(tmp_path / "set" / f"{k}" / "0.png")
    with pytest.raises(ArtifactError, match="9 classes, but digits has 10"):
        api.import_set(tmp_path / "set", tmp_path / "out", dataset="digits", preprocessing="mean_std")
    with pytest.raises(ConfigError, match="brings its labels"):
        api.import_set(tmp_path / "set", tmp_path / "out", dataset="digits", labels=tmp_path / "labels.pt")


# --- a result from outside


@pytest.mark.slow
def test_ten_images_of_the_public_dc_code_score_what_their_owner_measured(tmp_path: Path) -> None:
    """92.01 +- 0.31 % over 20 networks, as DanielHelle/DatasetCondensation logged for these very images."""
    outside, root = os.environ.get("CONDENSE_OUTSIDE"), os.environ.get("CONDENSE_DATA")
    if not outside or not root:
        pytest.skip("CONDENSE_OUTSIDE (folder of dc_mnist_ipc1.npz) and CONDENSE_DATA (folder of MNIST) are not set")
    made = api.import_set(
        Path(outside) / "dc_mnist_ipc1.npz", tmp_path / "set", dataset="mnist", data_root=root, method="dc"
    )
    evaluation = api.evaluate_artifact(made, protocol="dc1000_mnist", eval_networks="convnet", eval_repeats=5)[0]
    assert evaluation.mean == pytest.approx(0.920, abs=0.01)
