"""Every way an artifact can be wrong raises ArtifactError with its own message."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from artifact_examples import example, save, with_compensators, with_store, write_manifest
from torch import Tensor

from condense.artifact import load_artifact, verify
from condense.errors import ArtifactError

Damage = Callable[[Path], None]


def edit_manifest(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        change(manifest)
        write_manifest(folder, manifest)

    return damage


def sign(folder: Path, name: str = "data.safetensors") -> None:
    """Make the recorded size and hash those of the present file."""
    content = (folder / name).read_bytes()
    payload = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(lambda manifest: manifest["payload"].update({name: payload}))(folder)


def edit_tensors(change: Callable[[dict[str, Tensor]], Any], name: str = "data.safetensors") -> Damage:
    """Change the tensors and record the new hash, so that only the tensors themselves are wrong."""

    def damage(folder: Path) -> None:
        tensors = {key: tensor.clone() for key, tensor in safetensors.torch.load_file(folder / name).items()}
        change(tensors)
        safetensors.torch.save_file(tensors, folder / name)
        sign(folder, name)

    return damage


def edit_store(change: Callable[[dict[str, Tensor]], Any]) -> Damage:
    return edit_tensors(change, "labels.safetensors")


def set_bytes(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content) and None


def resize(name: str, by: int) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:by] if by < 0 else content + bytes(by))

    return damage


def flip_bit(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return damage


def not_safetensors(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(b"\xff" * 100)
        sign(folder, name)

    return damage


def oversized(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 64 * 2**20 + 1)  # sparse: takes no room


def pipe(folder: Path) -> None:
    (folder / "data.safetensors").unlink()
    os.mkfifo(folder / "data.safetensors")


def outside(folder: Path) -> None:
    """A true hash of a file that exists, outside the folder."""
    (folder.parent / "secret").write_bytes(b"secret")
    payload = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    edit_manifest(lambda manifest: manifest["payload"].update({"../secret": payload}))(folder)


def put(tensors: dict[str, Tensor], name: str, index: tuple[int, ...], value: float) -> None:
    tensors[name][index] = value


HARD: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json: missing"),
    "empty manifest": (set_bytes("manifest.json", b""), "not JSON"),
    "truncated manifest": (resize("manifest.json", -20), "not JSON"),
    "manifest not UTF-8": (set_bytes("manifest.json", b'{"\xff": 1}'), "not JSON"),
    "manifest too deep": (set_bytes("manifest.json", b"[" * 200_000), "not JSON"),
    "manifest is a list": (set_bytes("manifest.json", b"[]"), "not a distilled set of condense"),
    "manifest too large": (oversized, "larger than 1048576 bytes"),
    "another format": (edit_manifest(lambda m: m.update(format="other")), "not a distilled set of condense"),
    "newer version": (edit_manifest(lambda m: m.update(format_version=5)), "format version 5, but .* up to 4"),
    "factor 0": (edit_manifest(lambda m: m["images"].update(factor=0)), "images.factor"),
    "a huge factor": (edit_manifest(lambda m: m["images"].update(factor=9)), "images.factor"),
    "more cells than pixels": (edit_manifest(lambda m: m["images"].update(factor=5)), "factor 5 .* cells"),
    "no version": (edit_manifest(lambda m: m.pop("format_version")), "format version None"),
    "missing key": (edit_manifest(lambda m: m.pop("classes")), "key classes: Field required"),
    "missing inner key": (edit_manifest(lambda m: m["method"].pop("ipc")), r"key method\.ipc: Field required"),
    "wrong type": (edit_manifest(lambda m: m.update(lr="0.1")), "key lr: Input should be a valid number"),
    "lr not positive": (edit_manifest(lambda m: m.update(lr=-1.0)), "key lr: Input should be greater than 0"),
    "lr not finite": (edit_manifest(lambda m: m.update(lr=float("nan"))), "not JSON .NaN is not a finite number"),
    "no classes": (edit_manifest(lambda m: m.update(classes=[])), "key classes: Tuple should have at least 1 item"),
    "unknown preprocessing": (
        edit_manifest(lambda m: m["preprocessing"].update(kind="pca")),
        r"key preprocessing\.kind: Input should be 'mean_std' or 'zca'",
    ),
    "bad shape": (
        edit_manifest(lambda m: m["images"].update(shape=[6, 3, 4])),
        r"key images\.shape\.3: Field required",
    ),
    "path in payload": (outside, r"'\.\./secret' is not the plain name"),
    "data not listed": (edit_manifest(lambda m: m["payload"].pop("data.safetensors")), "safetensors is not listed"),
    "bad hash text": (
        edit_manifest(lambda m: m["payload"]["data.safetensors"].update(sha256="0")),
        r"sha256: String should match pattern",
    ),
    "no data": (lambda folder: (folder / "data.safetensors").unlink(), r"data\.safetensors: missing"),
    "data is a pipe": (pipe, r"data\.safetensors: missing"),
    "no preview": (lambda folder: (folder / "preview.png").unlink(), r"preview\.png: missing"),
    "truncated data": (resize("data.safetensors", -1), r"data\.safetensors: truncated: \d+ bytes instead of \d+"),
    "longer data": (resize("data.safetensors", 1), r"data\.safetensors: too long: \d+ bytes instead of \d+"),
    "changed data": (flip_bit("data.safetensors"), r"data\.safetensors: the SHA-256 is not that"),
    "changed preview": (flip_bit("preview.png"), r"preview\.png: the SHA-256 is not that"),
    "not safetensors": (not_safetensors("data.safetensors"), "not a safetensors file"),
    "missing tensor": (edit_tensors(lambda t: t.pop("labels")), "no tensor 'labels'"),
    "missing preprocessing": (edit_tensors(lambda t: t.pop("preprocessing.std")), r"no tensor 'preprocessing\.std'"),
    "extra tensor": (edit_tensors(lambda t: t.update(extra=torch.zeros(1))), "tensor 'extra' does not belong here"),
    "images double": (edit_tensors(lambda t: t.update(images=t["images"].double())), "'images' is torch.float64"),
    "labels int32": (edit_tensors(lambda t: t.update(labels=t["labels"].int())), "'labels' is torch.int32"),
    "images of another size": (
        edit_tensors(lambda t: t.update(images=t["images"][..., :2].contiguous())),
        r"'images' has shape \[6, 3, 4, 2\]; the manifest asks for \[6, 3, 4, 5\]",
    ),
    "labels for fewer images": (
        edit_tensors(lambda t: t.update(labels=t["labels"][:5])),
        r"'labels' has shape \[5\]; the manifest asks for \[6\]",
    ),
    "grey mean for colour": (
        edit_tensors(lambda t: t.update({"preprocessing.mean": torch.zeros(1)})),
        r"'preprocessing\.mean' has shape \[1\]",
    ),
    "NaN in images": (
        edit_tensors(lambda t: put(t, "images", (1, 2, 3, 4), torch.nan)),
        "'images' has values that are NaN",
    ),
    "infinite mean": (
        edit_tensors(lambda t: put(t, "preprocessing.mean", (0,), torch.inf)),
        r"'preprocessing\.mean' has values that are NaN or infinite",
    ),
    "std of zero": (
        edit_tensors(lambda t: put(t, "preprocessing.std", (0,), 0.0)),
        r"'preprocessing\.std' has values that are not positive",
    ),
    "label too large": (
        edit_tensors(lambda t: put(t, "labels", (5,), 3)),
        r"labels lie in 0\.\.3, but 3 classes allow 0\.\.2",
    ),
    "label negative": (edit_tensors(lambda t: put(t, "labels", (0,), -1)), r"labels lie in -1\.\.2"),
    "a class less": (edit_manifest(lambda m: m["classes"].pop()), r"labels lie in 0\.\.2, but 2 classes allow 0\.\.1"),
}
SOFT: dict[str, tuple[Damage, str]] = {
    "a class less": (
        edit_manifest(lambda m: m["classes"].pop()),
        r"'labels' has shape \[6, 3\]; the manifest asks for \[6, 2\]",
    ),
    "called hard": (
        edit_manifest(lambda m: m["labels"].update(kind="hard")),
        "'labels' is torch.float32; it must be torch.int64",
    ),
    "negative probability": (
        edit_tensors(lambda t: t["labels"][0].copy_(torch.tensor([-0.5, 0.5, 1.0]))),
        "soft labels must be probabilities",
    ),
    "sum not 1": (edit_tensors(lambda t: t["labels"].mul_(1.01)), "soft labels must be probabilities"),
}
STORE: dict[str, tuple[Damage, str]] = {
    "no file": (lambda folder: (folder / "labels.safetensors").unlink(), r"labels\.safetensors: missing"),
    "truncated": (resize("labels.safetensors", -1), r"labels\.safetensors: truncated: \d+ bytes instead of \d+"),
    "longer": (resize("labels.safetensors", 1), r"labels\.safetensors: too long"),
    "changed": (flip_bit("labels.safetensors"), r"labels\.safetensors: the SHA-256 is not that"),
    "not safetensors": (not_safetensors("labels.safetensors"), r"labels\.safetensors: not a safetensors file"),
    "not listed": (
        edit_manifest(lambda m: m["payload"].pop("labels.safetensors")),
        r"key payload: .* labels\.safetensors and the key store belong together",
    ),
    "no key": (edit_manifest(lambda m: m.update(store=None)), "the key store belong together"),
    "unknown kind": (edit_manifest(lambda m: m["store"].update(kind="ranks")), r"key store\.kind: .*'logits'"),
    "no epochs": (edit_manifest(lambda m: m["store"].update(epochs=0)), r"key store\.epochs"),
    "no batch size": (edit_manifest(lambda m: m["store"].pop("batch")), r"key store\.batch: Field required"),
    "batches of one": (edit_manifest(lambda m: m["store"].update(batch=1)), r"key store\.batch"),
    "groups of one": (edit_manifest(lambda m: m["store"].update(group=1)), r"key store\.group"),
    "negative weight": (edit_manifest(lambda m: m["store"].update(weight=-1.0)), r"key store\.weight"),
    "weight above 1": (edit_manifest(lambda m: m["store"].update(weight=1.5)), r"labels\.safetensors: .* weight 1\.5"),
    "fewer epochs": (
        edit_manifest(lambda m: m["store"].update(epochs=2)),
        r"'boxes' has shape \[3, 6, 4\]; the manifest asks for \[2, 6, 4\]",
    ),
    "other batches": (
        edit_manifest(lambda m: m["store"].update(batch=2)),
        r"'patches' has shape \[3, 2, 4\]; the manifest asks for \[3, 3, 4\]",
    ),
    "distances of three": (
        edit_manifest(lambda m: m["store"].update(kind="distances")),
        r"'values' has shape \[3, 6, 3\]; the manifest asks for \[3, 6, 2\]",
    ),
    "missing tensor": (edit_store(lambda t: t.pop("shares")), "no tensor 'shares'"),
    "extra tensor": (edit_store(lambda t: t.update(extra=torch.zeros(1))), "tensor 'extra' does not belong here"),
    "wide order": (edit_store(lambda t: t.update(order=t["order"].long())), "'order' is torch.int64; it must be"),
    "values single": (edit_store(lambda t: t.update(values=t["values"].float())), "'values' is torch.float32"),
    "NaN in values": (edit_store(lambda t: put(t, "values", (1, 2, 0), torch.nan)), "'values' has values that are NaN"),
    "an image too far": (edit_store(lambda t: put(t, "order", (2, 0), 6)), r"'order' must have each of 0\.\.5 once"),
    "partner elsewhere": (edit_store(lambda t: put(t, "partners", (0, 0), 5)), "'partners' has views of another batch"),
    "empty box": (edit_store(lambda t: put(t, "boxes", (0, 0, 3), 0)), "'boxes' has one without pixels"),
    "patch outside": (edit_store(lambda t: put(t, "patches", (0, 0, 2), 5)), "'patches' has one that is not inside"),
    "share above 1": (edit_store(lambda t: put(t, "shares", (0, 0), 1.5)), r"'shares' has values outside 0\.\.1"),
}


COMPENSATED: dict[str, tuple[Damage, str]] = {
    "no tensor": (edit_tensors(lambda t: t.pop("compensators")), "no tensor 'compensators'"),
    "no key": (
        edit_manifest(lambda m: m["images"].pop("compensators")),
        "tensor 'compensators' does not belong here",
    ),
    "fewer": (
        edit_tensors(lambda t: t.update(compensators=t["compensators"][:, :2].contiguous())),
        r"'compensators' has shape \[2, 2, 3, 4, 4\]; the manifest asks for \[2, 3, 3, 4, 4\]",
    ),
    "other groups": (
        edit_manifest(lambda m: m["images"].update(compensators=[3, 2])),
        r"'compensators' has shape \[2, 3, .*; the manifest asks for \[3, 2, ",
    ),
    "groups of none": (edit_manifest(lambda m: m["images"].update(compensators=[0, 3])), r"images\.compensators\.0"),
    "too many": (edit_manifest(lambda m: m["images"].update(compensators=[2, 64])), r"images\.compensators\.1: .* 63"),
    "NaN": (
        edit_tensors(lambda t: put(t, "compensators", (1, 2, 0, 0, 0), torch.nan)),
        "'compensators' has values that are NaN",
    ),
    "labels of the stored images": (
        edit_tensors(lambda t: t.update(labels=t["labels"][::4].contiguous())),
        r"'labels' has shape \[6\]; the manifest asks for \[24\]",
    ),
    "mosaics": (edit_manifest(lambda m: m["images"].update(factor=2)), "with compensators are not mosaics"),
}


def assert_found(folder: Path, damage: Damage, message: str) -> str:
    """A sound set is refused once it is damaged, with this one message, which is given back."""
    verify(folder)
    damage(folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_artifact(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("damage, message", COMPENSATED.values(), ids=COMPENSATED.keys())
def test_damage_to_compensators_is_found(tmp_path: Path, damage: Damage, message: str) -> None:
    assert_found(save(tmp_path / "set", with_compensators()), damage, message)


def test_groups_are_of_equal_size(tmp_path: Path) -> None:
    made = with_compensators()
    odd = replace(made.distilled, images=made.distilled.images[:5], labels=made.distilled.labels[:20])
    with pytest.raises(ArtifactError, match="5 images do not make 2 groups of equal size"):
        save(tmp_path / "set", replace(made, distilled=odd))


@pytest.mark.parametrize("damage, message", STORE.values(), ids=STORE.keys())
def test_damage_to_a_label_store_is_found(tmp_path: Path, damage: Damage, message: str) -> None:
    assert_found(save(tmp_path / "set", with_store()), damage, message)


def test_a_label_store_needs_squares(tmp_path: Path) -> None:
    made = with_store()
    oblong = replace(made.distilled, images=example().distilled.images)
    with pytest.raises(ArtifactError, match=r"square images, and these are 4 by 5"):
        save(tmp_path / "set", replace(made, distilled=oblong))


@pytest.mark.parametrize("damage, message", HARD.values(), ids=HARD.keys())
def test_damage_is_found(artifact_folder: Path, damage: Damage, message: str) -> None:
    assert str(artifact_folder) in assert_found(artifact_folder, damage, message)
    with pytest.raises(ArtifactError, match=message):
        verify(artifact_folder)


@pytest.mark.parametrize("damage, message", SOFT.values(), ids=SOFT.keys())
def test_damage_to_soft_labels_is_found(tmp_path: Path, damage: Damage, message: str) -> None:
    assert_found(save(tmp_path / "set", example(soft=True)), damage, message)


@pytest.mark.parametrize("name", ["matrix", "inverse", "mean"])
def test_damage_to_zca_is_found(tmp_path: Path, name: str) -> None:
    damage = edit_tensors(lambda t: t.pop(f"preprocessing.{name}"))
    assert_found(save(tmp_path / "set", example("zca", 1)), damage, f"no tensor 'preprocessing.{name}'")


def test_a_file_is_no_folder(artifact_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        load_artifact(str(artifact_folder / "data.safetensors"))


def test_every_prefix_and_every_flipped_byte_of_the_data_is_found(artifact_folder: Path) -> None:
    path = artifact_folder / "data.safetensors"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position])
        with pytest.raises(ArtifactError, match="truncated"):
            load_artifact(artifact_folder)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        with pytest.raises(ArtifactError, match="SHA-256"):
            load_artifact(artifact_folder)
    path.write_bytes(whole)
    verify(artifact_folder)


def test_links_to_the_content_are_followed(artifact_folder: Path) -> None:
    """Download caches hold a folder of links to files named by hash."""
    data = artifact_folder / "data.safetensors"
    data.rename(artifact_folder.parent / "blob")
    data.symlink_to(artifact_folder.parent / "blob")
    verify(artifact_folder)
