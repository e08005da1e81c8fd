"""Exports are read back by other libraries: torch, numpy, Pillow, torchvision, pyarrow."""

import csv
import errno
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from artifact_examples import CLASSES, example, save, with_compensators, with_store
from PIL import Image

from condense._torchvision import torchvision
from condense.artifact import FORMATS, Artifact, export, load_artifact
from condense.errors import ConfigError, DiskError

CASES = [("mean_std", 3, False), ("zca", 1, False), ("mean_std", 1, True), ("zca", 3, True)]


@pytest.fixture(params=CASES, ids=["-".join(map(str, case)) for case in CASES])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    kind, channels, soft = request.param
    return load_artifact(save(tmp_path / "set", example(kind, channels, soft=soft)))


def levels(artifact: Artifact) -> np.ndarray:
    """The pixels that `example` drew, 8 bit, [n, h, w] or [n, h, w, 3]: not from the artifact's own inverse."""
    channels = artifact.images.shape[1]
    array = (example(artifact.manifest.preprocessing.kind, channels).pixels * 255).round().byte().permute(0, 2, 3, 1)
    return array.numpy().squeeze(3) if channels == 1 else array.numpy()


def test_pt(artifact: Artifact, tmp_path: Path) -> None:
    assert export(artifact, tmp_path / "out.pt", "pt") == f"6 images, exact, in {tmp_path / 'out.pt'}"
    read = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(read["images"], artifact.images) and torch.equal(read["labels"], artifact.labels)
    for name, tensor in artifact.preprocessing.tensors().items():
        assert torch.equal(read[f"preprocessing.{name}"], tensor)
    assert read["classes"] == list(CLASSES) and read["lr"] == 0.03
    assert read["manifest"] == json.loads((tmp_path / "set" / "manifest.json").read_text())


def test_npz(artifact: Artifact, tmp_path: Path) -> None:
    export(artifact, tmp_path / "name without ending", "npz")
    with np.load(tmp_path / "name without ending", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["images"], artifact.images.numpy())
        np.testing.assert_array_equal(read["labels"], artifact.labels.numpy())
        for name, tensor in artifact.preprocessing.tensors().items():
            np.testing.assert_array_equal(read[f"preprocessing.{name}"], tensor.numpy())
        assert tuple(read["classes"]) == CLASSES and float(read["lr"]) == 0.03


@pytest.mark.parametrize("soft", [False, True])
def test_what_compensators_make_is_exported(tmp_path: Path, soft: bool) -> None:
    artifact = load_artifact(save(tmp_path / "set", with_compensators(soft=soft)))
    assert export(artifact, tmp_path / "out.npz", "npz").startswith("24 images")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["images"], artifact.images.numpy())
        np.testing.assert_array_equal(read["labels"], artifact.labels.numpy())
    export(artifact, tmp_path / "out", "folder")
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 24


def test_npz_without_learned_lr(tmp_path: Path) -> None:
    made = example()
    without = replace(made, distilled=replace(made.distilled, lr=None))
    export(load_artifact(save(tmp_path / "set", without)), tmp_path / "out.npz", "npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as read:
        assert "lr" not in read


def test_png(artifact: Artifact, tmp_path: Path) -> None:
    message = export(artifact, tmp_path / "out", "png")
    assert "8-bit" in message and "0.0% of the values clipped" in message
    with (tmp_path / "out" / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(list((tmp_path / "out").iterdir())) == len(rows) + 1 == 7
    assert [(row["label"], row["class"]) for row in rows[1:4]] == [("0", "ant"), ("1", "bee"), ("1", "bee")]
    assert rows[5]["file"] == "2-cat_dog_0001.png"
    for row, expected in zip(rows, levels(artifact), strict=True):
        with Image.open(tmp_path / "out" / row["file"]) as picture:
            assert picture.mode == ("L" if expected.ndim == 2 else "RGB")
            np.testing.assert_array_equal(np.asarray(picture), expected)
    if artifact.labels.ndim == 2:
        soft = [[float(row[f"p{k}"]) for k in range(3)] for row in rows]
        np.testing.assert_array_equal(np.array(soft, np.float32), artifact.labels.numpy())
    else:
        assert set(rows[0]) == {"file", "label", "class"}


def test_folder_keeps_the_order_of_the_labels(tmp_path: Path) -> None:
    """Names that would sort otherwise, more than ten classes, a class without images."""
    classes = [f"name {k}" for k in range(12, 0, -1)]
    export(load_artifact(save(tmp_path / "set", example(), classes=classes)), tmp_path / "out", "folder")
    read = torchvision.datasets.ImageFolder(str(tmp_path / "out"), allow_empty=True)
    assert read.classes == [f"{k:02d}-name_{12 - k}" for k in range(12)]
    assert read.targets == [0, 0, 1, 1, 2, 2]
    for (picture, _), pixels in zip(read, example().pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), (pixels * 255).round().byte().permute(1, 2, 0).numpy())


def test_folder_grey(artifact: Artifact, tmp_path: Path) -> None:
    export(artifact, tmp_path / "out", "folder")
    paths = sorted((tmp_path / "out").glob("*/*.png"))
    assert [path.relative_to(tmp_path / "out").as_posix() for path in paths[3:5]] == [
        "1-bee/0001.png",
        "2-cat_dog/0000.png",
    ]
    for path, expected in zip(paths, levels(artifact), strict=True):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), expected)


def test_parquet(artifact: Artifact, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export(artifact, tmp_path / "out.parquet", "parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": list(CLASSES)}
    assert table["label"].to_pylist() == [0, 0, 1, 1, 2, 2]
    assert [str(field.type) for field in table.schema][:2] == ["struct<bytes: binary, path: string>", "int64"]
    for row, expected in zip(table["image"].to_pylist(), levels(artifact), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row["bytes"]))), expected)
    assert table["image"][5].as_py()["path"] == "2-cat_dog_0001.png"
    assert ("soft_label" in table.column_names) == ("soft_label" in features) == (artifact.labels.ndim == 2)
    if artifact.labels.ndim == 2:
        np.testing.assert_array_equal(np.array(table["soft_label"].to_pylist(), np.float32), artifact.labels.numpy())


def test_clipping_is_counted(tmp_path: Path) -> None:
    """A quarter of the values moved outside 0..1."""
    made = example()
    images = made.pixels.clone()
    images[:, :, 0] = -0.5
    moved = replace(made, distilled=replace(made.distilled, images=made.preprocessing(images)))
    message = export(load_artifact(save(tmp_path / "set", moved)), tmp_path / "out", "png")
    assert "25.0% of the values clipped" in message


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_overwritten(artifact_folder: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        export(load_artifact(artifact_folder), out, format)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("format", ["pt", "npz", "parquet"])
def test_a_file_needs_a_name(artifact_folder: Path, tmp_path: Path, format: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=f"is a folder, and {format} is one file"):
        export(load_artifact(artifact_folder), tmp_path / "out", format)


def test_unknown_format(artifact_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'parket'. Did you mean 'parquet'\? Allowed: folder, npz, parquet, png, pt\."
    ):
        export(load_artifact(artifact_folder), tmp_path / "out", "parket")


@pytest.mark.parametrize("format", FORMATS)
def test_two_channels(tmp_path: Path, format: str) -> None:
    """Exact formats take any number of channels, pictures do not; the preview shows the mean."""
    artifact = load_artifact(save(tmp_path / "set", example(channels=2)))
    if format in ("pt", "npz"):
        export(artifact, tmp_path / "out", format)
    else:
        with pytest.raises(ConfigError, match="1 or 3 channels, and these have 2; use pt or npz"):
            export(artifact, tmp_path / "out", format)
        assert not (tmp_path / "out").exists()


def test_parquet_without_pyarrow(artifact_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'condense-dd\[parquet\]'"):
        export(load_artifact(artifact_folder), tmp_path / "out.parquet", "parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


def test_parquet_with_equal_names(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    artifact = load_artifact(save(tmp_path / "set", example(), classes=["crane", "crane", "ant"]))
    with pytest.raises(ConfigError, match="a different name for each class"):
        export(artifact, tmp_path / "out", "parquet")
    export(artifact, tmp_path / "folders", "folder")
    assert sorted(path.name for path in (tmp_path / "folders").iterdir()) == ["0-crane", "1-crane", "2-ant"]


def test_failed_export_leaves_nothing(artifact_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = load_artifact(artifact_folder)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Path, "write_bytes", broken)
    for format in ("npz", "png", "folder"):
        with pytest.raises(DiskError, match=r"out cannot be written: disk full\. Make room"):
            export(artifact, tmp_path / "out", format)
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


@pytest.mark.parametrize("format", ["pt", "png"])
def test_a_label_store_is_said_to_stay_behind(tmp_path: Path, format: str) -> None:
    artifact = load_artifact(save(tmp_path / "set", with_store()))
    assert "label store stays behind" in export(artifact, tmp_path / f"out.{format}", format)
    bare = load_artifact(save(tmp_path / "bare", example()))
    assert "label store" not in export(bare, tmp_path / f"bare.{format}", format)
