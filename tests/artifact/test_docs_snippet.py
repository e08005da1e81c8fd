"""docs/format.md is true: its ten lines train, its tables are complete, and a set written by it alone loads."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from artifact_examples import Example, example, save, with_compensators, with_store
from torch import Tensor
from torch.nn import functional as F

from condense.artifact import DatasetRecord, EvaluationRecord, Manifest, MethodRecord, load_artifact
from condense.artifact.format import ImagesRecord, LabelsRecord, Payload, PreprocessingRecord, StoreRecord
from condense.artifact.tensors import STORE_TYPES
from condense.data.preprocess import Preprocessing
from condense.networks import create
from condense.rng import generator
from condense.synthetic import DistilledSet, LabelStore, draw_views, relabel

DOCS = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
DEFINITIONS, TEN_LINES, REPLAY, STUDENT = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What the page defines: preprocess, convnet, replay."""
    names: dict[str, Any] = {}
    exec(DEFINITIONS + REPLAY, names)
    return names


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes of noisy 4 x 4 colour patterns: uint8 [n, 3, 4, 4], labels [n]."""
    patterns = torch.rand(3, 3, 4, 4, generator=generator(0, "patterns"))
    labels = torch.arange(n) % 3
    images = 0.2 + 0.6 * patterns[labels] + 0.05 * torch.randn(n, 3, 4, 4, generator=generator(seed, "noise"))
    return (images.clamp(0, 1) * 255).round().byte(), labels


def fit(kind: str, images: Tensor) -> Preprocessing:
    x = images.numpy().reshape(len(images), -1).astype(np.float64) / 255
    if kind == "zca":
        variances, axes = np.linalg.eigh(np.cov(x.T))
        scale = np.sqrt(variances + 0.1)
        values = {"mean": x.mean(0), "matrix": axes / scale @ axes.T, "inverse": axes * scale @ axes.T}
    else:
        x = x.reshape(images.shape)
        values = {"mean": x.mean((0, 2, 3)), "std": x.std((0, 2, 3))}
    return Preprocessing.from_tensors(kind, {name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()})


@pytest.mark.parametrize("kind, soft", [("mean_std", False), ("zca", True)])
def test_the_ten_lines_train_without_condense(tmp_path: Path, kind: str, soft: bool) -> None:
    assert len(TEN_LINES.splitlines()) == 10
    images, labels = blobs(3, seed=1)
    preprocessing = fit(kind, blobs(300, seed=2)[0])
    given = F.one_hot(labels).float() * 0.7 + 0.1 if soft else labels
    distilled = DistilledSet(preprocessing(images), given, 0.01)
    save(tmp_path / "distilled", Example(distilled, preprocessing, images))
    images, labels = blobs(600, seed=3)
    safetensors.torch.save_file({"images": images, "labels": labels}, tmp_path / "test.safetensors")

    assert alone(DEFINITIONS, TEN_LINES, where=tmp_path) > 0.95


def alone(definitions: str, lines: str, where: Path) -> float:
    """The test accuracy that the page's own code prints, in a process without condense."""
    script = "import sys\nsys.modules['condense'] = None\n" + definitions + "torch.manual_seed(0)\n" + lines
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=where,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = re.fullmatch(r"test accuracy (\d\.\d{3})\n", done.stdout)
    assert printed
    return float(printed[1])


def test_the_page_trains_on_a_label_store_without_condense(tmp_path: Path) -> None:
    """Teachers that say nothing but the truth, of images that have other labels."""
    images, labels = blobs(6, seed=1)
    preprocessing = fit("mean_std", blobs(300, seed=2)[0])
    views = draw_views(
        6,
        4,
        epochs=300,
        batch=4,
        crop="shifted",
        smallest=1.0,
        mirrored=False,
        mix="cutmix",
        draws=lambda epoch: generator(0, "views", epoch),
    )
    x = preprocessing(images)
    truth = 20.0 * F.one_hot(labels, 3)
    values = relabel(x, views, lambda b: b.share * truth[b.rows] + (1 - b.share) * truth[b.partner_rows])
    distilled = DistilledSet(x, (labels + 1) % 3, store=LabelStore(views, "logits", values))
    save(tmp_path / "distilled", Example(distilled, preprocessing, images))
    images, labels = blobs(600, seed=3)
    safetensors.torch.save_file({"images": images, "labels": labels}, tmp_path / "test.safetensors")
    answers = "".join(line + "\n" for line in TEN_LINES.splitlines()[-2:])
    test = "test = load_file('test.safetensors')\n"
    assert alone(DEFINITIONS + REPLAY, STUDENT + test + answers, where=tmp_path) > 0.9


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("factor", [1, 2])
def test_documented_replay_is_ours(tmp_path: Path, documented: dict[str, Any], mix: str, factor: int) -> None:
    artifact = load_artifact(save(tmp_path / "set", with_store(mix=mix, factor=factor)))
    info = json.loads((tmp_path / "set" / "manifest.json").read_text())
    data, stored = (
        safetensors.torch.load_file(tmp_path / "set" / f"{name}.safetensors") for name in ("data", "labels")
    )
    images, _ = documented["training_set"](info, data)
    for epoch in range(info["store"]["epochs"]):
        theirs = list(documented["replay"](images, stored, epoch, info["store"]["batch"]))
        for (x, values), (ours, our_values) in zip(theirs, artifact.replay(epoch), strict=True):
            torch.testing.assert_close(x, ours, atol=1e-5, rtol=0)
            assert torch.equal(values, our_values)


@pytest.mark.parametrize("kind", ["mean_std", "zca"])
def test_documented_preprocessing_is_ours(tmp_path: Path, documented: dict[str, Any], kind: str) -> None:
    folder = save(tmp_path / "set", example(kind))
    images = torch.randint(256, (5, 3, 4, 5), dtype=torch.uint8, generator=generator(0, "images"))
    theirs = documented["preprocess"](images / 255, safetensors.torch.load_file(folder / "data.safetensors"))
    torch.testing.assert_close(theirs, load_artifact(folder).preprocess(images))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_documented_mosaics_are_ours(tmp_path: Path, documented: dict[str, Any], factor: int) -> None:
    made = example()
    folder = save(tmp_path / "set", replace(made, distilled=replace(made.distilled, factor=factor)))
    info = json.loads((folder / "manifest.json").read_text())
    images, labels = documented["training_set"](info, safetensors.torch.load_file(folder / "data.safetensors"))
    ours = load_artifact(folder)
    torch.testing.assert_close(images, ours.images)
    assert torch.equal(labels, ours.labels)


@pytest.mark.parametrize("soft", [False, True])
def test_documented_compensators_are_ours(tmp_path: Path, documented: dict[str, Any], soft: bool) -> None:
    folder = save(tmp_path / "set", with_compensators(soft=soft))
    info = json.loads((folder / "manifest.json").read_text())
    images, labels = documented["training_set"](info, safetensors.torch.load_file(folder / "data.safetensors"))
    ours = load_artifact(folder)
    assert torch.equal(images, ours.images) and torch.equal(labels, ours.labels)


@pytest.mark.parametrize("channels, size", [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_documented_convnet_is_ours(documented: dict[str, Any], channels: int, size: int) -> None:
    ours = create("convnet", channels=channels, size=size, classes=10)
    theirs = documented["convnet"](channels, size, 10)
    with torch.no_grad():
        for own, their in zip(ours.parameters(), theirs.parameters(), strict=True):
            own.copy_(their)
    x = torch.randn(2, channels, size, size, generator=generator(0, "x"))
    torch.testing.assert_close(theirs(x), ours(x))


def test_every_key_is_documented() -> None:
    records = (Manifest, MethodRecord, DatasetRecord, ImagesRecord, LabelsRecord, StoreRecord, PreprocessingRecord)
    keys = {key for record in (*records, EvaluationRecord, Payload) for key in record.model_fields}
    assert {key for key in keys if f"`{key}`" not in DOCS} == set()
    table = DOCS.split("## manifest.json")[1].split("\n\n")[1]
    assert re.findall(r"^\| `(\w+)` ", table, re.MULTILINE) == list(Manifest.model_fields)
    table = DOCS.split("## labels.safetensors")[1].split("\n\n")[2]
    types = dict(re.findall(r"^\| `(\w+)` \| (\w+) ", table, re.MULTILINE))
    assert types == {name: str(dtype).removeprefix("torch.") for name, dtype in STORE_TYPES.items()}


def test_a_set_written_by_the_page_alone_loads(tmp_path: Path) -> None:
    """numpy, safetensors and json; no preview, no learned lr, nothing known of the run."""
    tensors = {
        "images": np.linspace(-1, 1, 2 * 1 * 3 * 3, dtype=np.float32).reshape(2, 1, 3, 3),
        "labels": np.array([1, 0]),
        "preprocessing.mean": np.array([0.5], np.float32),
        "preprocessing.std": np.array([0.25], np.float32),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "data.safetensors")
    data = (tmp_path / "data.safetensors").read_bytes()
    manifest = {
        "format": "condense-distilled-set",
        "format_version": 1,
        "method": {"name": "by hand", "ipc": 1, "citation": ""},
        "dataset": {"name": "toy", "sha256": "", "source": "nowhere"},
        "classes": ["no", "yes"],
        "images": {"shape": [2, 1, 3, 3], "values": "z"},
        "labels": {"kind": "hard", "values": "index"},
        "preprocessing": {"kind": "mean_std", "forward": "z = (x - mean) / std", "inverse": "x = z std + mean"},
        "lr": None,
        "config": {},
        "provenance": {},
        "evaluations": [],
        "versions": {"by hand": "1"},
        "created": "2025-01-01T00:00:00+00:00",
        "payload": {"data.safetensors": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    artifact = load_artifact(tmp_path)
    assert artifact.lr is None and artifact.labels.tolist() == [1, 0]
    expected = np.clip(tensors["images"] * 0.25 + 0.5, 0, 1)
    np.testing.assert_allclose(artifact.pixels().numpy(), expected, rtol=1e-6)
