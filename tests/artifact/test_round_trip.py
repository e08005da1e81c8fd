"""What is saved comes back bit for bit, equal tensors give equal files, and a failed save leaves nothing."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifact_examples import CLASSES, RECORD, example, save, with_compensators, with_store, write_manifest
from PIL import Image
from torch.utils.data import DataLoader

import condense.artifact.save as save_module
from condense.artifact import add_evaluations, load_artifact, read_manifest, stored_bytes, verify
from condense.cli.report import manifest_text
from condense.errors import ArtifactError, ConfigError, DiskError


@pytest.mark.parametrize("kind", ["mean_std", "zca"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_every_bit_comes_back(tmp_path: Path, kind: str, channels: int, soft: bool) -> None:
    made = example(kind, channels, soft=soft)
    artifact = load_artifact(save(tmp_path / "set", made))
    assert torch.equal(artifact.images, made.distilled.images)
    assert torch.equal(artifact.labels, made.distilled.labels) and artifact.labels.dtype == made.distilled.labels.dtype
    assert artifact.lr == 0.03 and artifact.classes == CLASSES
    for name, tensor in made.preprocessing.tensors().items():
        assert torch.equal(artifact.preprocessing.tensors()[name], tensor)
    torch.testing.assert_close(artifact.pixels(), made.pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(artifact.preprocess((made.pixels * 255).round().byte()), artifact.images)


@pytest.mark.parametrize("soft", [False, True])
def test_mosaics_are_stored_and_their_cells_trained_on(tmp_path: Path, soft: bool) -> None:
    made = example(soft=soft)
    made = replace(made, distilled=replace(made.distilled, factor=2))
    artifact = load_artifact(save(tmp_path / "set", made))
    assert artifact.manifest.images.factor == 2 and artifact.manifest.images.shape == (6, 3, 4, 5)
    assert torch.equal(artifact.stored.images, made.distilled.images)
    assert len(artifact) == 24 and artifact.images.shape == (24, 3, 4, 5)
    corner = made.distilled.images[1, :, 2:, :3]  # the third cell of the second mosaic: lower left, the wider column
    expected = torch.nn.functional.interpolate(corner[None], (4, 5), mode="bilinear")[0]
    torch.testing.assert_close(artifact.images[6], expected)
    assert torch.equal(artifact.labels[4:8], made.distilled.labels[1:2].expand_as(artifact.labels[4:8]))


@pytest.mark.parametrize("soft, store", [(True, False), (False, True)])
def test_compensators_are_stored_and_their_sums_trained_on(tmp_path: Path, soft: bool, store: bool) -> None:
    made = with_compensators(soft=soft, store=store)
    images, compensators = made.distilled.images, made.distilled.compensators
    assert compensators is not None
    artifact = load_artifact(save(tmp_path / "set", made))
    assert artifact.manifest.images.compensators == (2, 3) and artifact.manifest.images.shape == (6, 3, 4, 4)
    assert artifact.stored.compensators is not None and torch.equal(artifact.stored.compensators, compensators)
    assert torch.equal(artifact.stored.images, images)
    assert len(artifact) == 24 and torch.equal(artifact.labels, made.distilled.labels)
    by_hand = [x for i in range(6) for x in (images[i], *(images[i] + compensators[i % 2, j] for j in range(3)))]
    assert torch.equal(artifact.images, torch.stack(by_hand))
    held = save_module.safetensors.torch.load_file(tmp_path / "set" / "data.safetensors")
    assert stored_bytes(artifact.manifest)["images"] == held["images"].nbytes + held["compensators"].nbytes == 12 * 192
    assert stored_bytes(artifact.manifest)["labels"] >= held["labels"].nbytes == 24 * (12 if soft else 8)
    assert "6 of 3x4x4, and 6 compensators: 24 images to train on" in manifest_text(artifact.manifest)
    if store:
        assert artifact.store is not None
        (x, _), *_ = artifact.replay(1)
        assert torch.equal(x, artifact.store.views.show(torch.stack(by_hand), 1, 0).x)


@pytest.mark.parametrize("settings", [{}, {"kind": "distances", "weight": 2.5, "group": 2}, {"factor": 2}], ids=str)
def test_a_label_store_comes_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    made = with_store(**settings)
    ours, folder = made.distilled.store, save(tmp_path / "set", made)
    artifact = load_artifact(folder)
    store = artifact.store
    assert ours is not None and store is not None
    assert (store.kind, store.weight, store.group, store.views.batch) == (ours.kind, ours.weight, ours.group, 4)
    for name, tensor in ours.tensors().items():
        assert torch.equal(store.tensors()[name], tensor) and store.tensors()[name].dtype == tensor.dtype, name
    assert (folder / "data.safetensors").read_bytes() == (
        save(tmp_path / "bare", replace(made, distilled=replace(made.distilled, store=None))) / "data.safetensors"
    ).read_bytes()
    held = save_module.safetensors.torch.load_file(folder / "labels.safetensors")
    assert stored_bytes(artifact.manifest)["labels"] == sum(tensor.nbytes for tensor in held.values()) + 6 * 8
    assert manifest_text(artifact.manifest).count("labels.safetensors") == 1


def test_a_store_is_replayed_epoch_by_epoch(tmp_path: Path) -> None:
    made = with_store()
    artifact, store = load_artifact(save(tmp_path / "set", made)), made.distilled.store
    assert store is not None
    for epoch in range(3):
        batches = list(artifact.replay(epoch))
        assert [len(x) for x, _ in batches] == [4, 2]
        for k, (x, _) in enumerate(batches):
            assert torch.equal(x, store.views.show(made.distilled.images, epoch, k).x)
        assert torch.equal(torch.cat([values for _, values in batches]), store.values[epoch].float())
    for epoch in (-1, 3):
        with pytest.raises(ConfigError, match=rf"epoch {epoch}: the label store has epochs 0\.\.2"):
            artifact.replay(epoch)


def test_what_has_no_store_has_nothing_to_play_back(artifact_folder: Path) -> None:
    artifact = load_artifact(artifact_folder)
    assert artifact.store is None
    with pytest.raises(ConfigError, match="no label store"):
        artifact.replay(0)


@pytest.mark.parametrize("version", [1, 2])
def test_sets_of_earlier_versions_are_read(artifact_folder: Path, version: int) -> None:
    manifest = json.loads((artifact_folder / "manifest.json").read_text())
    del manifest["store"], manifest["images"]["compensators"], manifest["seal"]
    if version == 1:
        del manifest["images"]["factor"], manifest["making"]
    write_manifest(artifact_folder, manifest | {"format_version": version})
    artifact = load_artifact(artifact_folder)
    assert artifact.store is None and torch.equal(artifact.images, example().distilled.images)


def test_manifest_says_what_the_set_is(artifact_folder: Path) -> None:
    manifest = json.loads((artifact_folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["format_version"]) == ("condense-distilled-set", 4)
    assert manifest["method"] == {"name": "ftd", "ipc": 2, "citation": "Du et al., 2023"}
    assert manifest["dataset"]["sha256"] == "ab" * 32
    assert manifest["images"]["shape"] == [6, 3, 4, 5] and manifest["labels"]["kind"] == "hard"
    assert manifest["config"] == {"syn_steps": 20, "lr_img": 100.0, "networks": ["convnet"], "ema": None}
    assert manifest["store"] is None
    assert manifest["provenance"] == {"syn_steps": "recipe"}
    assert manifest["evaluations"] == [{**RECORD, "values": [0.4, 0.6]}]
    assert manifest["versions"]["torch"] == torch.__version__
    assert set(manifest["payload"]) == {"data.safetensors", "preview.png"}
    for name, payload in manifest["payload"].items():
        content = (artifact_folder / name).read_bytes()
        assert payload == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_artifact_is_a_dataset(artifact_folder: Path) -> None:
    artifact = load_artifact(artifact_folder)
    batches = list(DataLoader(artifact, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 2]
    assert torch.equal(torch.cat([images for images, _ in batches]), artifact.images)
    assert [int(label) for _, label in artifact] == [0, 0, 1, 1, 2, 2]
    assert repr(artifact) == "Artifact(ftd on toy: 6 images [3, 4, 5], 3 classes)"


def test_pixels_are_clipped(tmp_path: Path) -> None:
    made = example()
    artifact = load_artifact(
        save(tmp_path / "set", replace(made, distilled=replace(made.distilled, images=made.distilled.images * 50)))
    )
    assert float(artifact.pixels().min()) == 0 and float(artifact.pixels().max()) == 1


def test_data_file_depends_on_the_tensors_alone(tmp_path: Path) -> None:
    """Other settings, another memory layout, another process: the same bytes. One bit of one tensor: others."""
    made = example("zca", soft=True)
    first = (save(tmp_path / "a", made) / "data.safetensors").read_bytes()
    strided = made.distilled.images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    assert not strided.is_contiguous()
    again = replace(made, distilled=replace(made.distilled, images=strided.requires_grad_()))
    assert (save(tmp_path / "b", again, config={}, evaluations=[]) / "data.safetensors").read_bytes() == first

    code = (
        "from pathlib import Path; from artifact_examples import example, save; "
        f"save(Path({str(tmp_path / 'c')!r}), example('zca', soft=True))"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})
    assert (tmp_path / "c" / "data.safetensors").read_bytes() == first

    images = made.distilled.images.clone()
    images[0, 0, 0, 0] = torch.nextafter(images[0, 0, 0, 0], torch.tensor(9.0))
    other = replace(made, distilled=replace(made.distilled, images=images))
    assert (save(tmp_path / "d", other) / "data.safetensors").read_bytes() != first


def test_data_file_has_no_metadata(artifact_folder: Path) -> None:
    content = (artifact_folder / "data.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header) == {"images", "labels", "preprocessing.mean", "preprocessing.std"}


def test_existing_folder_is_refused_and_untouched(artifact_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in artifact_folder.iterdir()}
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        save(artifact_folder, example(seed=1))
    assert {path.name: path.read_bytes() for path in artifact_folder.iterdir()} == before
    file = artifact_folder.parent / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        save(file, example())


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    verify(save(tmp_path / "empty", example()))
    verify(save(tmp_path / "a" / "b" / "c", example()))


@pytest.mark.parametrize("dies_at", ["data.safetensors", "preview.png", "manifest.json", "rename"])
def test_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str) -> None:
    write = save_module.write_atomic

    def dying(path: Path, data: bytes) -> None:
        if path.name == dies_at:
            path.write_bytes(data[: len(data) // 2])
            raise KeyboardInterrupt
        write(path, data)

    def no_rename(*_: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(save_module, "write_atomic", dying)
    if dies_at == "rename":
        monkeypatch.setattr(Path, "rename", no_rename)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "set", example())
    assert list(tmp_path.iterdir()) == []


def test_killed_save_shows_no_artifact(tmp_path: Path) -> None:
    """SIGKILL just before the manifest is written: nothing under the artifact's name, and the next save works."""
    code = (
        "import os, signal; from pathlib import Path; import condense.artifact.save as module\n"
        "from artifact_examples import example, save\n"
        "write = module.write_atomic\n"
        "def dying(path, data):\n"
        "    if path.name == 'manifest.json': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(path, data)\n"
        "module.write_atomic = dying\n"
        f"save(Path({str(tmp_path / 'set')!r}), example())\n"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert done.returncode == -9
    assert all(path.name.startswith(".tmp-") for path in tmp_path.iterdir())
    verify(save(tmp_path / "set", example()))


def test_a_store_of_other_images_is_not_written(tmp_path: Path) -> None:
    made, other = with_store(), with_store(factor=2).distilled.store
    with pytest.raises(ArtifactError, match=r"labels\.safetensors: tensor 'boxes' has shape \[3, 24, 4\]"):
        save(tmp_path / "set", replace(made, distilled=replace(made.distilled, store=other)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["nan", "label", "dtype", "count"])
def test_tensors_that_would_not_load_are_not_written(tmp_path: Path, what: str) -> None:
    made = example()
    images, labels = made.distilled.images.clone(), made.distilled.labels.clone()
    if what == "nan":
        images[0] = torch.nan
    elif what == "label":
        labels[0] = 3
    elif what == "dtype":
        images = images.double()
    else:
        labels = labels[:-1]
    with pytest.raises(ArtifactError):
        save(tmp_path / "set", replace(made, distilled=replace(made.distilled, images=images, labels=labels)))
    assert list(tmp_path.iterdir()) == []


def test_add_evaluations_appends_and_keeps_the_rest(artifact_folder: Path) -> None:
    path = artifact_folder / "manifest.json"
    raw = json.loads(path.read_text())
    raw["from_the_future"] = {"kept": [1, 2]}
    write_manifest(artifact_folder, raw)
    new = {**RECORD, "network": "vgg11", "n": 1, "ci95": None, "values": [0.25], "mean": 0.25}
    manifest = add_evaluations(artifact_folder, [new])
    assert [record.network for record in manifest.evaluations] == ["convnet", "vgg11"]
    raw["evaluations"].append(new)
    written = json.loads(path.read_text())
    assert written.pop("seal") == manifest.seal != raw.pop("seal") and written == raw
    assert {file.name for file in artifact_folder.iterdir()} == {"manifest.json", "data.safetensors", "preview.png"}
    assert verify(artifact_folder) == manifest == read_manifest(artifact_folder)


def test_failed_append_leaves_the_manifest(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (artifact_folder / "manifest.json").read_bytes()

    def no_replace(*_: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", no_replace)
    with pytest.raises(DiskError, match="disk full"):
        add_evaluations(artifact_folder, [RECORD])
    assert (artifact_folder / "manifest.json").read_bytes() == before
    assert len(list(artifact_folder.iterdir())) == 3


def test_preview_shows_every_image_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    """Each 4 x 5 image is in the picture as blocks of equal colour; grey images have equal colour channels."""
    for channels in (1, 3):
        made = example(channels=channels)
        folder = save(tmp_path / str(channels), made)
        picture = np.asarray(Image.open(folder / "preview.png"))
        assert picture.ndim == 3 and picture.shape[2] == 3
        for pixels in made.pixels:
            levels = (pixels * 255).round().byte().expand(3, 4, 5).permute(1, 2, 0).numpy()
            block = np.kron(levels, np.ones((13, 13, 1), np.uint8))  # 64 / 5 rounded
            rows, columns = (picture == block[0, 0]).all(2).nonzero()
            hits = [
                (row, column)
                for row, column in zip(rows, columns, strict=True)
                if np.array_equal(picture[row : row + 52, column : column + 65], block)
            ]
            assert len(hits) == 1


@pytest.mark.parametrize("more_classes", [0, 50])
def test_preview_shows_compensators_on_grey(tmp_path: Path, more_classes: int) -> None:
    """Group by group, in the last row: the third changes nothing, the fourth makes it lighter."""
    made = with_compensators()
    compensators = made.distilled.compensators
    assert compensators is not None
    compensators[0, 2], compensators[1, 0] = 0, 0.25 / made.preprocessing.tensors()["std"].view(3, 1, 1)
    classes = (*CLASSES, *(f"class {k}" for k in range(more_classes)))
    picture = np.asarray(Image.open(save(tmp_path / "set", made, classes=classes) / "preview.png"))
    below = 20 + 4 + (28 if more_classes else 0)  # margin, gap and what was left out
    row = picture[-below - 64 : -below]
    grey, light = ((row == level).all((0, 2)).nonzero()[0] for level in (128, 191))
    assert len(grey) == len(light) == 64 and light[0] == grey[0] + 64 + 4


def test_preview_of_many_classes_stays_small(tmp_path: Path) -> None:
    made = example(ipc=40)
    classes = (*CLASSES, *(f"class {k}" for k in range(997)))
    folder = save(tmp_path / "set", made, classes=classes)
    width, height = Image.open(folder / "preview.png").size
    assert width < 1200 and height < 1600
    assert (folder / "preview.png").stat().st_size < 2**20
