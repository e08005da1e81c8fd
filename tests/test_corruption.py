"""Bytes that changed on disk: each cut at 64 bytes and each flip is found, and what is damaged is named."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from condense.artifact import load_artifact
from condense.costs import Cost
from condense.errors import ArtifactError, DataError
from condense.experts import TrajectoryStore
from condense.rng import generator
from condense.runs.checkpoint import latest_checkpoint, save_checkpoint

sys.path.append(str(Path(__file__).parent / "artifact"))  # for artifact_examples

from artifact_examples import example, save, with_compensators

STEP = 64
MASKS = (1, 0x20, 0x80, 0xFF)
"""A digit becomes another, a letter of the other case, a byte no ASCII, everything changes."""


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Each cut at `STEP` bytes; of each class of bytes (letter, digit, space, sign, others) and mask some flips."""
    yield from ((f"cut at {size}", content[:size]) for size in range(0, len(content), STEP))
    classes: dict[str, list[int]] = {}
    for place, byte in enumerate(content):
        character = chr(byte)
        kind = "zero" if byte == 0 else "high" if byte > 126 else "control" if byte < 32 else "sign"
        kind = "letter" if character.isascii() and character.isalpha() else kind
        kind = "digit" if character.isascii() and character.isdigit() else "space" if character == " " else kind
        classes.setdefault(kind, []).append(place)
    for kind, places in classes.items():
        for place in places[:: max(1, len(places) // 12)]:
            for mask in MASKS:
                yield (
                    f"{kind} at {place} ^ {mask}",
                    content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :],
                )


@pytest.mark.parametrize("name", ["manifest.json", "data.safetensors", "labels.safetensors", "preview.png"])
def test_a_damaged_set_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "set", with_compensators(store=True)) / name
    whole = path.read_bytes()
    for what, content in damages(whole):
        path.write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            load_artifact(tmp_path / "set")
            raise AssertionError(what)
        assert str(path) in str(caught.value), what
    path.write_bytes(whole)
    load_artifact(tmp_path / "set")


def test_every_flip_in_a_manifest_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "set", example()) / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ArtifactError):
            load_artifact(tmp_path / "set")
            raise AssertionError(place)


def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for iteration in (5, 10):
        state = {"images": torch.randn(4, 5, generator=generator(0, "x", iteration)), "k": torch.tensor(iteration)}
        save_checkpoint(tmp_path, iteration, state, "f" * 64, Cost(0.1 + 0.2, 2**30))
    path = tmp_path / "000010.safetensors"
    whole = path.read_bytes()
    for what, content in damages(whole):
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "condense"):
            found = latest_checkpoint(tmp_path, "f" * 64)
        assert found is not None and found.iteration == 5, what
        assert f"checkpoint {path} is damaged" in caplog.text, what
    path.write_bytes(whole)
    assert latest_checkpoint(tmp_path, "f" * 64).iteration == 10


def test_a_checkpoint_of_the_version_before_is_read(tmp_path: Path) -> None:
    """It has no SHA-256."""
    from safetensors.torch import save_file

    metadata = {"format_version": "1", "iteration": "5", "config_sha256": "f"}
    save_file({"x": torch.ones(2)}, tmp_path / "000005.safetensors", metadata)
    assert latest_checkpoint(tmp_path, "f").iteration == 5
    save_file({"x": torch.ones(2)}, tmp_path / "000005.safetensors", metadata | {"format_version": "2"})
    assert latest_checkpoint(tmp_path, "f") is None


def opened(path: Path) -> TrajectoryStore:
    return TrajectoryStore.open(path, identity={"lr": 0.01, "network": "mlp"}, snapshots=3, parameters=40)


def trajectory(expert: int) -> list[torch.Tensor]:
    return list(torch.randn(3, 40, generator=generator(0, "trajectory", expert)))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = opened(tmp_path / "store")
    for expert in (0, 1, 2):
        made.write(expert, trajectory(expert))
    made.ranking(lambda: [torch.arange(20)])
    return made.path


@pytest.mark.parametrize("name", ["manifest.json", "trajectories.bin", "ranking.safetensors"])
def test_a_damaged_store_is_found(store: Path, name: str) -> None:
    """Refused, but for an expert that was changed: that one is named."""
    whole = (store / name).read_bytes()
    for what, content in damages(whole):
        (store / name).write_bytes(content)
        try:
            found = opened(store)
            found.ranking(list)
        except DataError as error:
            assert str(store) in str(error) and name in str(error), what
        else:
            place = next(i for i, (old, new) in enumerate(zip(whole, content, strict=True)) if old != new)
            assert name == "trajectories.bin" and found.damaged(3) == [place // (len(whole) // 3)], what


def test_a_damaged_expert_is_forgotten_and_written_again(store: Path) -> None:
    path = store / "trajectories.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + b"\0" + whole[501:])
    again = opened(store)
    assert again.damaged(3) == [1] and again.damaged(1) == []
    again.forget([1])
    assert opened(store).missing(3) == [1]
    again.write(1, trajectory(1))
    assert path.read_bytes() == whole and opened(store).damaged(3) == []


def test_a_manifest_that_is_gone_does_not_cost_the_experts(store: Path) -> None:
    (store / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"trajectories\.bin is there, manifest\.json is missing"):
        opened(store)
