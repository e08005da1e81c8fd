"""Checkpoints: the state of a condenser after a number of iterations, in safetensors.

Randomness has addresses (see condense.rng), so the tensors and the iteration are all that a run needs to go on to the
same bits.
"""

import logging
import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from condense.costs import Cost
from condense.errors import RunError
from condense.files import TEMPORARY, atomic

FORMAT_VERSION = "1"

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
    the configuration that the state belongs to.
    """
    folder.mkdir(exist_ok=True)
    # Clones: safetensors refuses tensors that share memory, as an average that starts at the images may.
    tensors = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    metadata = {"format_version": FORMAT_VERSION, "iteration": str(iteration), "config_sha256": fingerprint}
    if cost is not None:
        metadata |= {"seconds": repr(cost.seconds), "peak_bytes": str(cost.peak_bytes)}
    with atomic(folder / f"{iteration:06d}.safetensors") as temporary:
        save_file(tensors, temporary, metadata)

    # A checkpoint later than this one was damaged, or this run would have gone on from it.
    found = _iterations(folder)
    keep = {iteration, max((i for i in found if i < iteration), default=iteration)}
    for i in found.keys() - keep:
        found[i].unlink()
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink()


def latest_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The newest checkpoint that can be read; None if there is none.

    A damaged checkpoint is passed over with a warning. Raises RunError for one of another configuration or format.
    """
    for iteration, path in sorted(_iterations(folder).items(), reverse=True):
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                # Clones: the tensors of an open file are maps of it.
                state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            logger.warning("checkpoint %s is damaged (%s); using the one before it", path, error)
            continue
        if metadata.get("format_version") != FORMAT_VERSION:
            raise RunError(
                f"{path} has checkpoint format {metadata.get('format_version')!r}; this version of condense reads "
                f"{FORMAT_VERSION!r}. Resume with the version that wrote it, or start a new run."
            )
        if metadata["config_sha256"] != fingerprint:
            raise RunError(
                f"{path} was made with another configuration than the config.toml beside it now holds. "
                "Undo the changes to config.toml, or start a new run with `condense run --config` and another --out."
            )
        assert metadata["iteration"] == str(iteration), f"{path} was renamed"
        known = "seconds" in metadata  # not so in those of earlier versions
        cost = Cost(float(metadata["seconds"]), int(metadata["peak_bytes"])) if known else None
        return Checkpoint(iteration, state, cost)
    return None


def _iterations(folder: Path) -> dict[int, Path]:
    """The checkpoints in `folder` by their iteration."""
    return {int(p.stem): p for p in folder.glob("*.safetensors") if re.fullmatch(r"\d{6,}", p.stem)}
