"""Units that do little, and what the tests say of them."""

import json
import os
import signal
import time
from pathlib import Path

from condense.files import write_atomic
from condense.runs import StopFlag, stop_signals
from condense.scale import RESULT, Done, Failed, Progress, Shared, Unit

BUFFER = {"method": "pad", "recipe": "none", "network": "convnet:width=4,depth=1", "num_experts": 2, "ipc": 1}
BUFFER |= {"max_start_epoch": 1, "expert_epochs": 2, "score_networks": 1, "score_epochs": 1}
"""Experts with a curriculum: one process ranks the images, and all need the ranking."""


def greet(folder, shared, *, text):
    """Two steps, then a file in a folder, and the result."""
    yield 1
    (folder / "below").mkdir(parents=True)
    write_atomic(folder / "below" / "file", text.encode())
    yield 2
    told = {"text": text, "shared": shared, "threads": os.environ["OMP_NUM_THREADS"], "process": os.getpid()}
    write_atomic(folder / RESULT, json.dumps(told).encode())


def fail(folder, shared, *, tries):  # noqa: ARG001 (as every unit's)
    """A bug."""
    with Path(tries).open("a") as file:
        file.write("x")
    yield 1
    raise RuntimeError(f"nothing works in {folder.name}")


def die(folder, shared, *, tries, times):
    """Its process is killed, so many times; then it does what is asked."""
    with Path(tries).open("a") as file:
        file.write("x")
    if len(Path(tries).read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    yield from greet(folder, shared, text="at last")


def wait(folder, shared, *, mark):  # noqa: ARG001
    """Until it is stopped."""
    with stop_signals() as stop:
        Path(mark).write_text(str(os.getpid()))
        while True:
            stop.check()
            time.sleep(0.05)
            yield 1


def unit(folder, name, work, shared=lambda: None, **arguments):
    return Unit(name=name, folder=folder / name, work=work, arguments=arguments, shared=Shared("hash", shared))


def run(executor, units, threads=1, stop=None):
    """What became of each: its number of steps, then the words of its failure, or None."""
    steps, ends = {}, {}
    for event in executor.run(units, threads, stop or StopFlag()):
        if isinstance(event, Progress):
            steps[event.unit.name] = event.steps
        else:
            assert event.unit.name not in ends
            ends[event.unit.name] = event.words if isinstance(event, Failed) else None
            assert isinstance(event, Failed) or (isinstance(event, Done) and event.machine["torch"])
    return steps, ends


def result(unit):
    return json.loads((unit.folder / RESULT).read_text())
