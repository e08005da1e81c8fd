"""Sets that releases wrote are read for ever; those of a newer format are refused in words.

tests/data/versions/N has sets of format N as a release wrote them, with what they hold in numbers. None is ever made
anew; a new format gets a folder of its own.
"""

import json
import shutil
from pathlib import Path

import pytest
from artifact_examples import write_manifest

from condense.artifact import load_artifact
from condense.artifact.format import VERSION
from condense.errors import ArtifactError
from condense.text import parse_json

KEPT = Path(__file__).parents[1] / "data" / "versions"
SETS = sorted(KEPT.glob("*/*/manifest.json"))
EXPECTED = json.loads((KEPT / "expected.json").read_text())


def test_this_version_is_kept() -> None:
    assert {path.parent.relative_to(KEPT).as_posix() for path in SETS} == set(EXPECTED)
    assert {f"{VERSION}/hard", f"{VERSION}/store", f"{VERSION}/compensators"} <= set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_kept_set_is_what_it_was(name: str) -> None:
    loaded = load_artifact(KEPT / name)
    found = {
        "method": loaded.manifest.method.name,
        "images": list(loaded.images.shape),
        "sum": round(float(loaded.images.double().sum()), 3),
        "labels": loaded.labels.tolist(),
        "store": None if loaded.store is None else round(float(loaded.store.values.double().sum()), 3),
        "mean": loaded.manifest.evaluations[0].mean,
    }
    assert found == EXPECTED[name]
    if loaded.store is not None:
        assert sum(len(x) for x, _ in loaded.replay(0)) == len(loaded)


@pytest.mark.parametrize("version", [VERSION + 1, 10**6])
def test_a_newer_format_is_refused_with_what_to_do(tmp_path: Path, version: int) -> None:
    shutil.copytree(KEPT / str(VERSION) / "hard", tmp_path / "set")
    manifest = parse_json((tmp_path / "set" / "manifest.json").read_bytes())
    write_manifest(tmp_path / "set", manifest | {"format_version": version})
    with pytest.raises(ArtifactError, match=f"format version {version}, but .* up to {VERSION}. Read it with"):
        load_artifact(tmp_path / "set")
