"""What a distilled set on disk is: the keys of its manifest, the tensors of its data file, and when they are valid.

docs/format.md is the specification; this module is the same in code.
"""

import json
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)
from torch import Tensor

from condense.data.preprocess import Kind
from condense.errors import ArtifactError

FORMAT: Final = "condense-distilled-set"
VERSION: Final = 1
MANIFEST = "manifest.json"
DATA = "data.safetensors"
PREVIEW = "preview.png"

IMAGE_VALUES = (
    "Network input: preprocessing.forward of pixels x, where 0 is black and 1 full intensity. "
    "preprocessing.inverse gives pixels back; synthetic ones may lie outside 0..1 and are clipped to be seen."
)
LabelKind = Literal["hard", "soft"]
LABEL_VALUES: dict[LabelKind, str] = {
    "hard": "Index into classes.",
    "soft": "Row i holds the probabilities of image i over classes.",
}
EQUATIONS: dict[Kind, tuple[str, str]] = {
    "mean_std": ("z[c,i,j] = (x[c,i,j] - mean[c]) / std[c]", "x[c,i,j] = z[c,i,j] * std[c] + mean[c]"),
    "zca": ("z = (x - mean) @ matrix, x flattened to [ch*h*w]", "x = z @ inverse + mean, z flattened to [ch*h*w]"),
}


class _Record(BaseModel):
    """Keys that this version does not know are kept, so that later ones can add some."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class MethodRecord(_Record):
    """The condenser: its registered name, the images per class asked for, and what to cite."""

    name: str
    ipc: PositiveInt
    citation: str


class DatasetRecord(_Record):
    """The real data: name, hash of the images and labels as loaded (RealData.sha256), and where the files came from."""

    name: str
    sha256: str
    source: str


class ImagesRecord(_Record):
    """`shape` is [n, ch, h, w]; `values` says in words what a number in `images` means."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    values: str


class LabelsRecord(_Record):
    """hard: int64 [n]; soft: float32 [n, classes]. `values` says so in words."""

    kind: LabelKind
    values: str


class PreprocessingRecord(_Record):
    """From pixels x to network input z (`forward`) and back (`inverse`), with the tensors `preprocessing.*`."""

    kind: Kind
    forward: str
    inverse: str


class EvaluationRecord(_Record):
    """`n` fresh networks trained on the set: test accuracies as fractions, their mean and 95 % half width."""

    network: str
    protocol: str
    n: PositiveInt
    mean: float
    ci95: float | None
    values: tuple[float, ...]


class Payload(_Record):
    """Size in bytes and SHA-256 (hex) of a file beside the manifest."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(_Record):
    """The content of manifest.json."""

    format: Literal["condense-distilled-set"]
    format_version: Literal[1]
    method: MethodRecord
    dataset: DatasetRecord
    classes: tuple[str, ...] = Field(min_length=1)
    images: ImagesRecord
    labels: LabelsRecord
    preprocessing: PreprocessingRecord
    lr: PositiveFloat | None
    config: dict[str, JsonValue]
    provenance: dict[str, str]
    evaluations: tuple[EvaluationRecord, ...]
    versions: dict[str, str]
    created: str
    payload: dict[str, Payload]

    @field_validator("payload")
    @classmethod
    def _plain_names(cls, payload: dict[str, Payload]) -> dict[str, Payload]:
        for name in payload:
            if name in ("", ".", "..", MANIFEST) or any(character in name for character in "/\\:\0"):
                raise ValueError(f"{name!r} is not the plain name of a file beside the manifest")
        if DATA not in payload:
            raise ValueError(f"{DATA} is not listed")
        return payload

    def to_json(self) -> bytes:
        """UTF-8 JSON. Raises ValueError for NaN or infinity, which JSON does not have."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """The manifest in `text`, read from `path`. Raises ArtifactError: not JSON, unknown format or version, bad key."""
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not JSON ({error}). The file is damaged; copy the set again.") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not a distilled set of condense: the key format is not {FORMAT!r}.")
    if head.get("format_version") != VERSION:
        raise ArtifactError(
            f"{path}: format version {head.get('format_version')!r}, but this release reads version {VERSION}. "
            "Read it with the release of condense that wrote it, or a newer one."
        )
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ArtifactError(f"{path}: key {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def class_of(labels: Tensor) -> Tensor:
    """Class index of each image, int64 [n]: hard labels as they are, of soft ones the most probable class."""
    return labels if labels.ndim == 1 else labels.argmax(1)


def check_tensors(manifest: Manifest, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise ArtifactError unless `tensors`, read from `path`, are those the manifest announces, finite and in range."""
    expected = _layout(manifest)
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise ArtifactError(f"{path}: no tensor {name!r}; a set needs {', '.join(expected)}.")
        if name not in expected:
            raise ArtifactError(f"{path}: tensor {name!r} does not belong here; allowed: {', '.join(expected)}.")
        tensor, (dtype, shape) = tensors[name], expected[name]
        if tensor.dtype != dtype:
            raise ArtifactError(f"{path}: tensor {name!r} is {tensor.dtype}; it must be {dtype}.")
        if tuple(tensor.shape) != shape:
            raise ArtifactError(
                f"{path}: tensor {name!r} has shape {list(tensor.shape)}; the manifest asks for {list(shape)}."
            )
        if not bool(tensor.isfinite().all()):
            raise ArtifactError(f"{path}: tensor {name!r} has values that are NaN or infinite.")
    if "preprocessing.std" in tensors and not bool((tensors["preprocessing.std"] > 0).all()):
        raise ArtifactError(f"{path}: tensor 'preprocessing.std' has values that are not positive.")
    _check_labels(tensors["labels"], len(manifest.classes), path)


def _layout(manifest: Manifest) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor in the data file."""
    n, channels, height, width = manifest.images.shape
    hard, d = manifest.labels.kind == "hard", channels * height * width
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "mean_std": {"mean": (channels,), "std": (channels,)},
        "zca": {"mean": (d,), "matrix": (d, d), "inverse": (d, d)},
    }
    preprocessing = shapes[manifest.preprocessing.kind].items()
    return {
        "images": (torch.float32, (n, channels, height, width)),
        "labels": (torch.int64, (n,)) if hard else (torch.float32, (n, len(manifest.classes))),
        **{f"preprocessing.{name}": (torch.float32, shape) for name, shape in preprocessing},
    }


def _check_labels(labels: Tensor, classes: int, path: Path) -> None:
    if labels.ndim == 1:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ArtifactError(f"{path}: labels lie in {low}..{high}, but {classes} classes allow 0..{classes - 1}.")
    elif not bool((labels >= 0).all()) or not bool(((labels.sum(1) - 1).abs() < 1e-3).all()):
        raise ArtifactError(f"{path}: soft labels must be probabilities: each row >= 0 and with sum 1.")
