"""Distilled sets for other programs."""

import csv
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condense.artifact.folder import new_folder, refuse_existing
from condense.artifact.load import Artifact
from condense.artifact.preview import to_picture
from condense.artifact.tensors import class_of
from condense.errors import ConfigError, unknown
from condense.files import make_folder, write_atomic

LABELS_CSV = "labels.csv"


def export(artifact: Artifact, out: Path, format: str) -> str:
    """Write `artifact` at `out` in another format, and return a sentence that says what was written and what was lost.

    Exact, in preprocessed space: `pt` (torch.save of a dict), `npz`. In 8-bit pixels, so rounded and clipped to what
    can be seen: `png` (one folder of files with labels.csv), `folder` (a folder per class, as torchvision's
    ImageFolder reads it), `parquet` (Hugging Face image layout; needs the extra `parquet`). None holds a label store.
    docs/format.md lists the names inside.

    Raises ConfigError for an unknown format, an existing `out`, a missing extra, or images that the format cannot hold;
    DiskError if it cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(unknown("export format", format, FORMATS))
    refuse_existing(out)
    if format not in EXACT and artifact.images.shape[1] not in (1, 3):
        raise ConfigError(
            f"{format} holds images of 1 or 3 channels, and these have {artifact.images.shape[1]}; use pt or npz."
        )
    if format in _FOLDERS:
        with new_folder(out) as work:
            _FOLDERS[format](artifact, work)
    else:
        if out.is_dir():
            raise ConfigError(f"{out} is a folder, and {format} is one file; give its name.")
        content = _FILES[format](artifact)
        make_folder(out.parent)
        write_atomic(out, content)
    left = "" if artifact.store is None else ". Its label store stays behind"
    if format in EXACT:
        return f"{len(artifact)} images, exact, in {out}{left}"
    distance = (artifact.preprocessing.inverse(artifact.images) - 0.5).abs() - 0.5
    clipped = float((distance > 0.5 / 255).float().mean())  # by more than rounding would change
    return (
        f"{len(artifact)} images in {out} as 8-bit pixels: rounded, and {clipped:.1%} of the values clipped to 0..1. "
        f"Networks trained on them score differently; pt and npz are exact{left}."
    )


def _arrays(artifact: Artifact) -> dict[str, Tensor]:
    fitted = {f"preprocessing.{name}": tensor for name, tensor in artifact.preprocessing.tensors().items()}
    return {"images": artifact.images, "labels": artifact.labels, **fitted}


def _pt(artifact: Artifact) -> bytes:
    manifest = json.loads(artifact.manifest.to_json())  # plain types only, so that weights_only=True can read it
    facts = {"classes": list(artifact.classes), "lr": artifact.lr, "manifest": manifest}
    buffer = BytesIO()  # not a file: of a full disk torch and the others would say something else
    torch.save({**_arrays(artifact), **facts}, buffer)
    return buffer.getvalue()


def _npz(artifact: Artifact) -> bytes:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in _arrays(artifact).items()}
    arrays["classes"] = np.array(artifact.classes)
    if artifact.lr is not None:
        arrays["lr"] = np.array(artifact.lr)
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _pictures(artifact: Artifact) -> list[tuple[int, int, bytes]]:
    """(class, number within the class, PNG) of every image, in order."""
    counts: dict[int, int] = {}
    pictures = []
    for pixels, index in zip(artifact.pixels(), class_of(artifact.labels).tolist(), strict=True):
        number = counts[index] = counts.get(index, -1) + 1
        buffer = BytesIO()
        to_picture(pixels).save(buffer, "PNG")
        pictures.append((index, number, buffer.getvalue()))
    return pictures


def _class_name(artifact: Artifact, index: int) -> str:
    """For file names: `03-cat`, the index first, so that sorting by name gives the order of the labels."""
    digits = len(str(len(artifact.classes) - 1))
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in artifact.classes[index])
    return f"{index:0{digits}d}-{name[:100]}"


def _png(artifact: Artifact, path: Path) -> None:
    soft = [] if artifact.labels.ndim == 1 else artifact.labels.tolist()
    with (path / LABELS_CSV).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "class", *(f"p{k}" for k in range(len(artifact.classes)) if soft)])
        for row, (index, number, picture) in enumerate(_pictures(artifact)):
            name = f"{_class_name(artifact, index)}_{number:04d}.png"
            (path / name).write_bytes(picture)
            table.writerow([name, index, artifact.classes[index], *(soft[row] if soft else [])])


def _folder(artifact: Artifact, path: Path) -> None:
    for index in range(len(artifact.classes)):
        (path / _class_name(artifact, index)).mkdir()
    for index, number, picture in _pictures(artifact):
        (path / _class_name(artifact, index) / f"{number:04d}.png").write_bytes(picture)


def _parquet(artifact: Artifact) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("parquet needs pyarrow: pip install 'condense-dd[parquet]'.") from None
    if len(set(artifact.classes)) < len(artifact.classes):
        raise ConfigError("parquet needs a different name for each class, and two are equal; use another format.")
    pictures = _pictures(artifact)
    images = [
        {"bytes": picture, "path": f"{_class_name(artifact, index)}_{number:04d}.png"}
        for index, number, picture in pictures
    ]
    columns = {
        "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "label": pa.array([index for index, _, _ in pictures], pa.int64()),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(artifact.classes), "_type": "ClassLabel"},
    }
    if artifact.labels.ndim == 2:
        columns["soft_label"] = pa.array(artifact.labels.tolist(), pa.list_(pa.float32()))
        # "Sequence" is read by every release of `datasets`; its newer name "List" only from version 4 on.
        features["soft_label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


_FILES: dict[str, Callable[[Artifact], bytes]] = {"pt": _pt, "npz": _npz, "parquet": _parquet}
_FOLDERS: dict[str, Callable[[Artifact, Path], None]] = {"png": _png, "folder": _folder}
EXACT = frozenset({"pt", "npz"})
FORMATS = (*_FILES, *_FOLDERS)
