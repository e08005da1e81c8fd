"""The places of a process at which it can be made to die: around and inside whatever it does to a file.

`watch` is for a process that ends soon: what it replaces stays replaced.
"""

import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch

from condense.methods import METHODS
from condense.runs import StopFlag, checkpoint

LOOK, STEP = "look", "step"
"""A look at the flag that a signal raises, as after each epoch of a training; an iteration of a condenser."""
MOMENTS = {"write": ("before", "inside", "after"), LOOK: ("before",), STEP: ("before", "after")}
"""Of each operation; all others are as a write. Inside a write half of it is in the file."""


class Event(NamedTuple):
    """`place` is operation and file, `iteration` the one that began last, -1 before the first."""

    iteration: int
    place: str

    @property
    def moments(self) -> tuple[str, ...]:
        return MOMENTS.get(self.place.partition(" ")[0], MOMENTS["write"])


@dataclass(frozen=True)
class Kill:
    """The signal that a process gets, named `process`, at its event number `event`, counted from 0."""

    process: str
    event: int
    moment: str
    number: int


def kind(path: Path) -> str:
    """What a file is, whatever its number and the run it belongs to."""
    path = path.with_name(re.sub(r"^\.tmp-[0-9a-f]{8}-", "", path.name))
    parent = re.sub(r"^\.tmp-[0-9a-f]{8}-", "", path.parent.name)
    name = re.sub(r"[0-9a-f]{16,}", "HASH", re.sub(r"^\d{6}\.", "N.", path.name))
    if parent in ("checkpoints", "distilled", "teachers", "evaluations", "report"):
        return f"{parent}/{name}"
    if "buffers" in path.parts:
        return f"buffer/{'' if path.name.isdigit() else name}"
    if parent == "cells":
        return f"cells/CELL{path.suffix}"
    if "exported" in str(path):
        return "exported" + ("" if path.name.startswith("exported") else f"/FILE{path.suffix}")
    return name


class Watch:
    """Counts what a process does to files, and sends it the signal of `kill` when that is reached."""

    def __init__(self, process: str, kill: Kill | None, said: Path) -> None:
        self.kill = kill if kill is not None and kill.process == process else None
        self.said = said
        self.events: list[Event] = []
        self.iteration = -1

    def here(self, operation: str, path: Path | None, call: Callable[[], Any], half: Callable[[], None] | None = None):
        """Do what is asked, and die before, inside or after it if it is time."""
        number = len(self.events)
        self.events.append(Event(self.iteration, operation if path is None else f"{operation} {kind(path)}"))
        moment = self.kill.moment if self.kill is not None and self.kill.event == number else None
        if moment == "inside" and half is None:
            return self._meanwhile(call)
        if moment in ("before", "inside"):
            if moment == "inside":
                half()
            self._send()
        done = call()
        if moment == "after":
            self._send()
        return done

    def _send(self) -> None:
        file = os.open(self.said, os.O_WRONLY | os.O_CREAT)
        os.write(file, json.dumps({**asdict(self.kill), **self.events[self.kill.event]._asdict()}).encode())
        os.close(file)
        os.kill(os.getpid(), self.kill.number)

    def _meanwhile(self, call: Callable[[], Any]) -> Any:
        """The signal from another thread, which has its turn when this one waits for the system: inside the call."""
        turn = threading.Lock()
        with turn:
            sender = threading.Thread(target=lambda: turn.acquire() and self._send())
            sender.start()
            sys.setswitchinterval(1000)
        done = call()
        sender.join()
        return done


class Written:
    """A file whose writes are events."""

    def __init__(self, file: Any, path: Path, watch: Watch) -> None:
        self._file, self._path, self._watch = file, path, watch

    def write(self, data: Any) -> int:
        first = len(data) // 2
        rest = [data]

        def half() -> None:
            self._file.write(data[:first])
            self._file.flush()
            rest[0] = data[first:]

        self._watch.here("write", self._path, lambda: self._file.write(rest[0]), half)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def watch(process: str, kill: Kill | None, said: Path) -> Watch:
    """Make everything that this process does to files from now on an event."""
    watched = Watch(process, kill, said)

    def path_of(descriptor: int) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def fsync(descriptor: int, original: Any = os.fsync) -> None:
        path = path_of(descriptor)
        watched.here("sync folder" if path.is_dir() else "sync", path, lambda: original(descriptor))

    def renaming(original: Any) -> Any:
        def rename(source: Any, target: Any) -> None:
            watched.here("rename", Path(target), lambda: original(source, target))

        return rename

    def pwrite(descriptor: int, data: Any, offset: int, original: Any = os.pwrite) -> int:
        written = []

        def half() -> None:
            written.append(original(descriptor, data[: len(data) // 2], offset))

        def rest() -> int:
            return written[0] if written else original(descriptor, data, offset)

        return int(watched.here("write", path_of(descriptor), rest, half))

    def opened(path: Path, mode: str = "r", *arguments: Any, original: Any = Path.open, **named: Any) -> Any:
        file: io.IOBase = original(path, mode, *arguments, **named)
        return file if mode in ("r", "rb") else Written(file, path, watched)

    def save_file(tensors: Any, path: Path, metadata: Any, original: Any = checkpoint.save_file) -> None:
        def half() -> None:
            content = safetensors.torch.save(tensors, metadata)
            path.write_bytes.__wrapped__(path, content[: len(content) // 2])

        watched.here("write", path, lambda: original(tensors, path, metadata), half)

    def look(flag: StopFlag, original: Any = StopFlag.check) -> None:
        watched.here(LOOK, None, lambda: original(flag))

    def stepping(original: Any) -> Any:
        def step(condenser: Any, state: Any, problem: Any, iteration: int) -> Any:
            watched.iteration = iteration
            return watched.here(STEP, None, lambda: original(condenser, state, problem, iteration))

        return step

    def write_bytes(path: Path, data: bytes) -> int:
        with opened(path, "wb") as file:
            return int(file.write(data))

    write_bytes.__wrapped__ = Path.write_bytes  # type: ignore[attr-defined]
    os.fsync, os.pwrite = fsync, pwrite
    os.replace, os.rename = renaming(os.replace), renaming(os.rename)
    Path.open, Path.write_bytes = opened, write_bytes  # type: ignore[method-assign]
    checkpoint.save_file, StopFlag.check = save_file, look  # type: ignore[assignment,method-assign]
    for method in {cls for method in METHODS.values() for cls in method.__mro__ if "step" in vars(cls)}:
        if not getattr(method, "_is_protocol", False):
            method.step = stepping(method.step)  # type: ignore[method-assign]
    return watched


SIGNALS = {number.name: number for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)}
