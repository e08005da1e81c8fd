"""The manifest of a distilled set: its keys, and reading them. docs/format.md is the specification."""

import json
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from condense.data.preprocess import Kind
from condense.errors import ArtifactError
from condense.synthetic import MOST_COMPENSATORS, StoreKind
from condense.text import MOST_JSON, is_whole, parse_json, seal

FORMAT: Final = "condense-distilled-set"
VERSION: Final = 4
READABLE = (1, 2, 3, 4)
SEALED = 4
"""The first version whose manifests have a seal."""
MANIFEST = "manifest.json"
DATA = "data.safetensors"
STORE = "labels.safetensors"
PREVIEW = "preview.png"

IMAGE_VALUES = (
    "Network input: preprocessing.forward of pixels x, where 0 is black and 1 full intensity. "
    "preprocessing.inverse gives pixels back; synthetic ones may lie outside 0..1 and are clipped to be seen."
)
MOST_CELLS = 8
"""The largest factor: decoding takes factor^2 times the memory of the stored images."""
LabelKind = Literal["hard", "soft"]
LABEL_VALUES: dict[LabelKind, str] = {
    "hard": "Index into classes.",
    "soft": "Row i holds the probabilities of image i over classes.",
}
STORE_VALUES: dict[StoreKind, str] = {
    "logits": "Row i of an epoch holds the teachers' logits over classes for view i of it.",
    "distances": "Row i of an epoch holds the cross-entropy of the teachers' logits for view i of it with the label of "
    "its image, and with that of the image mixed in.",
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
    """`shape` is [n, ch, h, w]; `values` says in words what a number in `images` means.

    Each image is a mosaic of factor x factor smaller ones, which are enlarged to h x w to train on. Sets of version 1
    have no factor: it is 1. `compensators` is [K, M] where the set has M of them for each of K groups of its images
    (`condense.synthetic.compensated`), None where there are none, as in sets of versions 1 and 2.
    """

    shape: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    values: str
    factor: int = Field(1, ge=1, le=MOST_CELLS)
    compensators: tuple[PositiveInt, Annotated[int, Field(ge=1, le=MOST_COMPENSATORS)]] | None = None

    @property
    def trained_on(self) -> int:
        """Images to train on."""
        return self.shape[0] * (self.factor**2 if self.compensators is None else self.compensators[1] + 1)


class LabelsRecord(_Record):
    """hard: int64 [n]; soft: float32 [n, classes]. `values` says so in words.

    n counts stored images, or those to train on where there are compensators.
    """

    kind: LabelKind
    values: str


class StoreRecord(_Record):
    """Labels of views, in a file of their own: the tensors of `condense.synthetic.LabelStore`, which explains the keys.

    `values` says in words what the tensor of that name means.
    """

    kind: StoreKind
    values: str
    epochs: PositiveInt
    batch: int = Field(ge=2)
    weight: float = Field(ge=0)
    group: int | None = Field(ge=2)


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
    values: Annotated[tuple[float, ...], FailFast()]


class CostRecord(_Record):
    """Wall seconds, and the most bytes of memory that were held at a time: by the process, on CUDA by its tensors."""

    seconds: float = Field(ge=0)
    peak_bytes: int = Field(ge=0)


class Payload(_Record):
    """Size in bytes and SHA-256 (hex) of a file beside the manifest."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(_Record):
    """The content of manifest.json.

    `store` is None where there is none, as in sets of versions 1 and 2. `making` is what each part of making the set
    took, None where that is not known; `numerics` what decided its bits beside `config` (`condense.numerics`), more
    than once where its run went on elsewhere. Sets of earlier versions have neither. `seal` is the SHA-256 of the file
    with zeros in its place (`condense.text`); None before it is written, and up to version 3.
    """

    format: Literal["condense-distilled-set"]
    format_version: Literal[1, 2, 3, 4]
    method: MethodRecord
    dataset: DatasetRecord
    classes: Annotated[tuple[str, ...], FailFast()] = Field(min_length=1)
    images: ImagesRecord
    labels: LabelsRecord
    store: StoreRecord | None = None
    preprocessing: PreprocessingRecord
    lr: PositiveFloat | None
    config: dict[str, JsonValue]
    provenance: dict[str, str]
    making: dict[str, CostRecord | None] = Field(default_factory=dict)
    numerics: tuple[dict[str, str], ...] = ()
    evaluations: Annotated[tuple[EvaluationRecord, ...], FailFast()]
    versions: dict[str, str]
    created: str
    payload: dict[str, Payload]
    seal: str | None = None

    @field_validator("payload")
    @classmethod
    def _files(cls, payload: dict[str, Payload], info: ValidationInfo) -> dict[str, Payload]:
        for name in payload:
            if name in ("", ".", "..", MANIFEST) or len(name) > 100 or any(letter in name for letter in "/\\:\0"):
                raise ValueError(f"{name!r} is not the plain name of a file beside the manifest")
        if DATA not in payload:
            raise ValueError(f"{DATA} is not listed")
        if (STORE in payload) != (info.data.get("store") is not None):
            raise ValueError(f"{STORE} and the key store belong together")
        return payload

    def to_json(self) -> bytes:
        """UTF-8 JSON, sealed from version 4 on. Raises ValueError for NaN or infinity, which JSON does not have."""
        content = self.model_dump(exclude={"seal"})
        if self.format_version >= SEALED:
            return seal(content, indent=2)
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """The manifest in `text`, read from `path`.

    Raises ArtifactError: too large, not JSON, a key that is there twice, unknown format or version, changed since it
    was written, bad key.
    """
    if len(text) > MOST_JSON:
        raise ArtifactError(f"{path}: {len(text)} bytes; a manifest has at most {MOST_JSON}.")
    try:
        head = parse_json(text)
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON ({error}). The file is damaged; copy the set again.") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not a distilled set of condense: the key format is not {FORMAT!r}.")
    version, stamp = head.get("format_version"), head.get("seal")
    if stamp is not None and not (isinstance(stamp, str) and is_whole(text, stamp)):
        raise ArtifactError(f"{path}: changed since it was written: its seal is that of another text. Copy it again.")
    if version not in READABLE:
        raise ArtifactError(
            f"{path}: format version {version!r}, but this release reads versions up to {VERSION}. "
            "Read it with the release of condense that wrote it, or a newer one."
        )
    if stamp is None and version >= SEALED:
        raise ArtifactError(f"{path}: no seal, which sets of version {SEALED} on have. Copy the set again.")
    del head
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ArtifactError(f"{path}: key {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
