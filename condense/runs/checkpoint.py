"""Checkpoints: the state of a condenser after a number of iterations, in safetensors.

Randomness has addresses (see condense.rng), so the tensors and the iteration are all that a run needs to go on to the
same bits. A SHA-256 of all that a checkpoint says is in its metadata.
"""

import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from condense.costs import Cost
from condense.errors import RunError
from condense.files import TEMPORARY, atomic, writing

FORMAT_VERSION = "2"
READABLE = ("1", "2")
"""Version 1 has no SHA-256."""

logger = logging.getLogger("condense")


class Checkpoint(NamedTuple):
    """Completed iterations, the state after them on the CPU, and what they took; None if that is not known."""

    iteration: int
    state: dict[str, Tensor]
    cost: Cost | None


def save_checkpoint(
    folder: Path, iteration: int, state: dict[str, Tensor], fingerprint: str, cost: Cost | None = None
) -> None:
    """Write `state` after `iteration` completed iterations to `folder`/NNNNNN.safetensors, atomically.

    Tensors of any dtype and shape, on any device. Kept are this checkpoint and the one before it. `fingerprint` names
    the configuration that the state belongs to. Raises DiskError if it cannot be written; the older ones stand.
    """
    with writing(folder):
        folder.mkdir(exist_ok=True)
    # Clones: safetensors refuses tensors that share memory, as an average that starts at the images may.
    tensors = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    metadata = {"format_version": FORMAT_VERSION, "iteration": str(iteration), "config_sha256": fingerprint}
    if cost is not None:
        metadata |= {"seconds": repr(cost.seconds), "peak_bytes": str(cost.peak_bytes)}
    metadata["sha256"] = _sha256(tensors, metadata)
    with atomic(folder / f"{iteration:06d}.safetensors") as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # which has the number of the system's error in its words
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else error from error

    # A checkpoint later than this one was damaged, or this run would have gone on from it.
    found = _iterations(folder)
    keep = {iteration, max((i for i in found if i < iteration), default=iteration)}
    with writing(folder):
        for i in found.keys() - keep:
            found[i].unlink()
        for leftover in folder.glob(f"{TEMPORARY}*"):
            leftover.unlink()


def latest_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none.

    A damaged checkpoint is passed over with a warning. Raises RunError for one of another configuration or format.
    """
    for iteration, path in sorted(_iterations(folder).items(), reverse=True):
        try:
            return _read(path, iteration, fingerprint)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            if isinstance(error, RunError):
                raise
            logger.warning("checkpoint %s is damaged (%s); using the one before it", path, error)
    return None


def _read(path: Path, iteration: int, fingerprint: str) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        # Clones: the tensors of an open file are maps of it.
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    stamp, version = metadata.pop("sha256", None), metadata.get("format_version")
    if stamp is not None and stamp != _sha256(state, metadata):
        raise ValueError("its SHA-256 is that of another content")
    if version not in READABLE:
        raise RunError(
            f"{path} has checkpoint format {version!r}; this version of condense reads up to {FORMAT_VERSION!r}. "
            "Resume with the version that wrote it, or start a new run."
        )
    if stamp is None and version == FORMAT_VERSION:
        raise ValueError("no SHA-256")
    if metadata["config_sha256"] != fingerprint:
        raise RunError(
            f"{path} was made with another configuration than the config.toml beside it now holds. "
            "Undo the changes to config.toml, or start a new run with `condense run --config` and another --out."
        )
    if metadata["iteration"] != str(iteration):
        raise ValueError(f"it is that of iteration {metadata['iteration'][:20]}")
    known = "seconds" in metadata  # not so in those of earlier versions
    cost = Cost(float(metadata["seconds"]), int(metadata["peak_bytes"])) if known else None
    return Checkpoint(iteration, state, cost)


def _sha256(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Of names, types, shapes and contents, and of the metadata, whatever their order."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _iterations(folder: Path) -> dict[int, Path]:
    """The checkpoints in `folder` by their iteration."""
    return {int(p.stem): p for p in folder.glob("*.safetensors") if re.fullmatch(r"\d{6,18}", p.stem) and p.is_file()}
