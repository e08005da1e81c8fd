"""What a run will take: disk, from its configuration; memory and time from a rehearsal of it in another process.

With P parameters, S snapshots of an expert and b bytes for a stored parameter:

    disk     buffer       (experts to train) S P b
             checkpoints  the last two of the method's state
             artifact     images and labels as the method starts with them, and the preprocessing
    memory   the peak of the rehearsal
    time     the units of each phase, times the seconds that one took in the rehearsal

What the cache holds of experts, teachers and evaluations of baselines takes no time.
"""

import json
import logging
import math
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from condense.config import Resolved
from condense.costs import size
from condense.errors import ConfigError
from condense.methods import ExpertConfig, Problem
from condense.processes import how_it_ended, tied_to_this_process
from condense.provide import missing_experts
from condense.rehearsal import Phase

logger = logging.getLogger("condense")

GB = 10**9
MICRO_BATCHES = tuple(2**power for power in range(8, -1, -1))
"""What memory_limit chooses from: 256, 128, ... 1 images at a time."""
BUFFER_BYTES = {"float32": 4, "bfloat16": 2}
REHEARSAL = (sys.executable, "-m", "condense", "rehearse")


class TooLarge(ConfigError):  # noqa: N818 (a finding)
    """A run that memory is not enough for."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on disk by what takes them; of each phase of the run the seconds, and the peak of memory when it ends.

    `compiling` is the seconds that the rehearsal compiled for; the run finds what that made.
    """

    disk: dict[str, float]
    seconds: dict[str, float]
    peaks: dict[str, int]
    compiling: float


def estimate(resolved: Resolved, problem: Problem) -> Estimate:
    """What a new run of this configuration will take. Raises as `rehearse`."""
    phases = rehearse(resolved)
    seconds: dict[str, float] = {}
    for phase in phases:
        seconds[phase.name] = seconds.get(phase.name, 0.0) + phase.units * phase.seconds
    return Estimate(
        disk(resolved, problem, phases),
        seconds,
        {phase.name: phase.peak_bytes for phase in phases},
        sum(phase.compiling for phase in phases),
    )


def rehearse(resolved: Resolved, *, whole: bool = True) -> list[Phase]:
    """The phases of a run as `condense.rehearsal` tries them in a process of its own; not `whole`: of making the set.

    Raises TooLarge if memory is not enough, and ConfigError for what the method finds wrong with the problem.
    """
    logger.info("rehearsing the run")
    phases: list[Phase] = []
    with subprocess.Popen(
        REHEARSAL,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # a Ctrl-C reaches this process alone
        preexec_fn=tied_to_this_process(),
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            json.dump({"values": resolved.values(), "whole": whole}, child.stdin)
            child.stdin.close()
            for line in child.stdout:
                match json.loads(line):
                    case {"phase": phase}:
                        phases.append(Phase(**phase))
                    case {"error": words}:
                        raise ConfigError(words)
                    case {"out_of_memory": words}:
                        raise TooLarge(_too_large(words, phases))
        except BaseException:
            child.kill()
            raise
    if child.returncode < 0:
        words = f"its rehearsal was {how_it_ended(child.returncode)}, as happens when the system has no memory left"
        raise TooLarge(_too_large(words, phases))
    if child.returncode:
        raise RuntimeError(f"the rehearsal of the run ended with {how_it_ended(child.returncode)}")
    return phases


def _too_large(words: str, phases: list[Phase]) -> str:
    done = f" after {phases[-1].name}, which took {size(phases[-1].peak_bytes)}" if phases else ""
    return (
        f"memory is not enough for this run: {words}{done}. Lower ipc or the batch sizes (`condense ls keys METHOD`), "
        "choose a smaller network, or give micro_batch or memory_limit, for which a network must be without batch norm"
    )


def settle_memory(resolved: Resolved, problem: Problem) -> Resolved:
    """The configuration with the largest micro_batch that keeps within its memory_limit.

    Rehearsed are micro_batch as it is, and then, if that was none, some of MICRO_BATCHES. The run records what came
    out, so that it has the same bits wherever it is resumed. Raises ConfigError, with what the least takes, if nothing
    fits.
    """
    r, network = resolved.run, problem.network
    assert r.memory_limit is not None
    limit, limit_bytes = f"memory_limit = {r.memory_limit} GB", r.memory_limit * GB
    choices = (r.micro_batch, *(MICRO_BATCHES if r.micro_batch is None and not network.images_meet else ()))
    found = ""

    def given(micro_batch: int | None) -> Resolved:
        return replace(resolved, run=r.model_copy(update={"micro_batch": micro_batch}))

    def fits(micro_batch: int | None) -> bool:
        nonlocal found
        try:
            peak: float = max(phase.peak_bytes for phase in rehearse(given(micro_batch), whole=False))
            found = f"micro_batch = {micro_batch or 'none'} takes {size(peak)}"
        except TooLarge:
            peak, found = math.inf, f"micro_batch = {micro_batch or 'none'} takes more than there is"
        logger.info(found)
        return peak <= limit_bytes

    if fits(choices[0]):
        return resolved
    place = bisect_left(choices, True, lo=1, key=fits)
    if place == len(choices):
        meet = f", and the batch norm of network {network.name!r} needs whole batches" if network.images_meet else ""
        raise ConfigError(
            f"{limit} is not enough: {found}{meet}. "
            "Raise it, choose a smaller network or data set, or lower ipc or the batch sizes"
        )
    origin = f"{limit} ({resolved.origins['memory_limit']})"
    return replace(given(choices[place]), origins=resolved.origins | {"micro_batch": origin})


def disk(resolved: Resolved, problem: Problem, phases: Sequence[Phase]) -> dict[str, float]:
    """Bytes of the tensors that the run will add to the disk, if these are the phases of its rehearsal."""
    state = max(phase.state_bytes for phase in phases)
    images_and_labels = next(phase.set_bytes for phase in phases if phase.set_bytes)  # those after it are baselines
    preprocessing = sum(tensor.nbytes for tensor in problem.preprocessing.tensors().values())
    artifact = images_and_labels + preprocessing
    return {"buffer": _buffer(resolved, problem), "checkpoints": 2 * state, "artifact": artifact}


def _buffer(resolved: Resolved, problem: Problem) -> float:
    """Bytes of the trajectories that are still to be trained."""
    method = resolved.method
    if not isinstance(method, ExpertConfig):
        return 0
    snapshots = method.expert_plan(resolved.run.dsa).epochs + 1
    missing = len(missing_experts(resolved, problem))
    return missing * snapshots * problem.network.num_parameters * BUFFER_BYTES[method.buffer_dtype]
