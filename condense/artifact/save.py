"""Writing a distilled set: built and checked in memory, then visible on disk all at once."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import safetensors.torch
import torch
from pydantic import JsonValue
from torch import Tensor

from condense.artifact.folder import new_folder, refuse_existing
from condense.artifact.format import (
    DATA,
    EQUATIONS,
    FORMAT,
    IMAGE_VALUES,
    LABEL_VALUES,
    MANIFEST,
    PREVIEW,
    STORE,
    STORE_VALUES,
    VERSION,
    CostRecord,
    DatasetRecord,
    EvaluationRecord,
    ImagesRecord,
    LabelKind,
    LabelsRecord,
    Manifest,
    MethodRecord,
    Payload,
    PreprocessingRecord,
    StoreRecord,
    parse_manifest,
)
from condense.artifact.load import read_manifest
from condense.artifact.preview import draw_preview
from condense.artifact.tensors import COMPENSATORS, STORE_TYPES, check_store, check_tensors, class_of_stored
from condense.costs import Cost
from condense.data.preprocess import Preprocessing
from condense.files import write_atomic
from condense.locks import turn
from condense.synthetic.types import DistilledSet


def save_artifact(
    folder: Path,
    distilled: DistilledSet,
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    method: MethodRecord,
    dataset: DatasetRecord,
    config: Mapping[str, JsonValue],
    provenance: Mapping[str, str],
    making: Mapping[str, Cost | None] | None = None,
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write `distilled` as a new artifact at `folder` and return that path.

    `config` is the resolved configuration, `provenance` says for each of its keys where the value came from,
    `making` what each part of making the set took.
    `evaluations` are mappings with the keys of EvaluationRecord; others are kept. Equal tensors give equal bytes in
    data.safetensors and labels.safetensors, and nothing in these depends on the time or the machine.

    Raises ConfigError if something is there already; ArtifactError if the tensors would not load. In both cases, and
    if the process dies, there is no artifact at `folder`, not half of one.
    """
    refuse_existing(folder)
    preprocessing = preprocessing.to("cpu")
    tensors = {
        "images": distilled.images,
        "labels": distilled.labels,
        **({} if distilled.compensators is None else {COMPENSATORS: distilled.compensators}),
        **{f"preprocessing.{name}": tensor for name, tensor in preprocessing.tensors().items()},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    images, labels = tensors["images"], tensors["labels"]
    kind: LabelKind = "hard" if labels.ndim == 1 else "soft"
    forward, inverse = EQUATIONS[preprocessing.kind]
    n, channels, height, width = images.shape
    # No metadata in the safetensors header: several keys would be written in an order that changes from call to call.
    files = {DATA: safetensors.torch.save(tensors)}
    store, taught, record = distilled.store, {}, None
    if store is not None:
        views = store.views
        taught = {name: tensor.cpu().to(STORE_TYPES[name]).contiguous() for name, tensor in store.tensors().items()}
        files[STORE] = safetensors.torch.save(taught)
        record = StoreRecord(
            kind=store.kind,
            values=STORE_VALUES[store.kind],
            epochs=views.epochs,
            batch=views.batch,
            weight=store.weight,
            group=store.group,
        )
    manifest = Manifest(
        format=FORMAT,
        format_version=VERSION,
        method=method,
        dataset=dataset,
        classes=tuple(classes),
        images=ImagesRecord(
            shape=(n, channels, height, width),
            values=IMAGE_VALUES,
            factor=distilled.factor,
            compensators=None if distilled.compensators is None else tuple(distilled.compensators.shape[:2]),
        ),
        labels=LabelsRecord(kind=kind, values=LABEL_VALUES[kind]),
        store=record,
        preprocessing=PreprocessingRecord(kind=preprocessing.kind, forward=forward, inverse=inverse),
        lr=distilled.lr,
        config=dict(config),
        provenance=dict(provenance),
        making={part: None if cost is None else CostRecord(**asdict(cost)) for part, cost in (making or {}).items()},
        evaluations=tuple(EvaluationRecord.model_validate(record) for record in evaluations),
        versions={"condense": _own_version(), "torch": torch.__version__, "python": python_version()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        payload={name: _payload(content) for name, content in files.items()},
    )
    check_tensors(manifest, tensors, folder / DATA)
    if store is not None:
        check_store(manifest, taught, folder / STORE)
    files[PREVIEW] = draw_preview(
        preprocessing.inverse(images).clamp(0, 1),
        class_of_stored(images, labels),
        classes,
        title=f"{method.name}, {dataset.name}, {method.ipc} per class",
        compensators=None if distilled.compensators is None else _on_grey(tensors[COMPENSATORS], preprocessing),
    )
    manifest = manifest.model_copy(update={"payload": {name: _payload(content) for name, content in files.items()}})
    text = manifest.to_json()
    with new_folder(folder) as work:
        for name, content in files.items():
            write_atomic(work / name, content)
        write_atomic(work / MANIFEST, text)
    return folder


def add_evaluations(folder: Path, records: Sequence[Mapping[str, Any]]) -> Manifest:
    """Append evaluation records (mappings with the keys of EvaluationRecord) to a manifest and return the new one.

    The manifest is replaced in one step, the other files are not touched. Processes that append at the same moment do
    so one after another. Raises ArtifactError if the manifest cannot be read.
    """
    added = tuple(EvaluationRecord.model_validate(record) for record in records)
    return _change(folder, lambda manifest: {"evaluations": manifest.evaluations + added})


def add_new_evaluations(folder: Path, records: Sequence[Mapping[str, Any]]) -> Manifest:
    """As `add_evaluations`, but for those that are in the manifest."""

    def new(manifest: Manifest) -> dict[str, Any]:
        held = [record.model_dump(mode="json") for record in manifest.evaluations]
        added = tuple(EvaluationRecord.model_validate(record) for record in records if record not in held)
        return {"evaluations": manifest.evaluations + added}

    return _change(folder, new)


def note_numerics(folder: Path, numerics: Sequence[Mapping[str, str]]) -> None:
    """Say in a manifest what decided the bits of the set, part by part. Raises ArtifactError as `add_evaluations`."""
    _change(folder, lambda _: {"numerics": tuple(dict(part) for part in numerics)})


def _change(folder: Path, change: Callable[[Manifest], dict[str, Any]]) -> Manifest:
    """Replace keys of a manifest by what `change` makes of it as it is; nothing is written if they are the same."""
    read_manifest(folder)  # a folder that is no set is not locked either
    with turn(folder):
        before = read_manifest(folder)
        after = before.model_copy(update=change(before))
        if after == before:
            return before
        text = after.to_json()
        after = parse_manifest(text, folder / MANIFEST)
        write_atomic(folder / MANIFEST, text)
    return after


def _on_grey(compensators: Tensor, preprocessing: Preprocessing) -> Tensor:
    """What they do to an image of middle grey, as pixels [K M, ch, h, w]."""
    changes = compensators.flatten(0, 1)
    return preprocessing.inverse(preprocessing(torch.full_like(changes, 0.5)) + changes).clamp(0, 1)


def _payload(content: bytes) -> Payload:
    return Payload(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _own_version() -> str:
    try:
        return version("condense-dd")
    except PackageNotFoundError:
        return "not installed"
