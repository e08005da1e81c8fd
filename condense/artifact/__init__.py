"""The distilled set on disk: a folder with manifest.json, data.safetensors and preview.png (see docs/format.md)."""

from condense.artifact.export import FORMATS, export
from condense.artifact.folder import refuse_existing
from condense.artifact.format import (
    DATA,
    STORE,
    DatasetRecord,
    EvaluationRecord,
    Manifest,
    MethodRecord,
    StoreRecord,
)
from condense.artifact.importing import fit_to, read_set, stated_map
from condense.artifact.load import Artifact, load_artifact, read_manifest, verify
from condense.artifact.save import add_evaluations, add_new_evaluations, note_numerics, save_artifact
from condense.artifact.tensors import STORE_TYPES, stored_bytes

__all__ = [
    "DATA",
    "FORMATS",
    "STORE",
    "STORE_TYPES",
    "Artifact",
    "DatasetRecord",
    "EvaluationRecord",
    "Manifest",
    "MethodRecord",
    "StoreRecord",
    "add_evaluations",
    "add_new_evaluations",
    "export",
    "fit_to",
    "load_artifact",
    "note_numerics",
    "read_manifest",
    "read_set",
    "refuse_existing",
    "save_artifact",
    "stated_map",
    "stored_bytes",
    "verify",
]
