"""The distilled set on disk: a folder with manifest.json, data.safetensors and preview.png (see docs/format.md)."""

from condense.artifact.export import FORMATS, export
from condense.artifact.format import (
    DATA,
    DatasetRecord,
    EvaluationRecord,
    Manifest,
    MethodRecord,
)
from condense.artifact.load import Artifact, load_artifact, read_manifest, verify
from condense.artifact.save import add_evaluations, save_artifact
from condense.artifact.tensors import stored_bytes

__all__ = [
    "DATA",
    "FORMATS",
    "Artifact",
    "DatasetRecord",
    "EvaluationRecord",
    "Manifest",
    "MethodRecord",
    "add_evaluations",
    "export",
    "load_artifact",
    "read_manifest",
    "save_artifact",
    "stored_bytes",
    "verify",
]
