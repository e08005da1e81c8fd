"""The places of a process at which it can be made to die: around and inside whatever it does to a file.

`watch` is for a process that ends soon: what it replaces stays replaced.
"""

import json
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial, partialmethod
from pathlib import Path
from typing import Any, NamedTuple

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
    if parent in ("checkpoints", "distilled", "teachers", "evaluations"):
        return f"{parent}/{name}"
    if parent == "report":
        return "report/FILE"
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

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path = file, path

    def write(self, data: Any) -> int:
        first = len(data) // 2
        rest = [data]

        def half() -> None:
            self._file.write(data[:first])
            self._file.flush()
            rest[0] = data[first:]

        _here("write", self._path, lambda: self._file.write(rest[0]), half)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


_current: list[Watch] = []


def watch(process: str, kill: Kill | None, said: Path) -> Watch:
    """Make everything that this process does to files from now on an event, for this watch and no other."""
    if not _current:
        _replace()
    _current[:] = [Watch(process, kill, said)]
    return _current[0]


def _here(operation: str, path: Path | None, call: Callable[[], Any], half: Callable[[], None] | None = None) -> Any:
    return _current[0].here(operation, path, call, half)


def _replace() -> None:
    """What writes, syncs and renames, looks at the flag and takes a step, by what says so."""
    checkpoint.save_file = partial(_save_file, checkpoint.save_file)  # type: ignore[assignment]
    os.fsync, os.pwrite = partial(_fsync, os.fsync), partial(_pwrite, os.pwrite)
    os.replace, os.rename = partial(_rename, os.replace), partial(_rename, os.rename)
    Path.open = partialmethod(_open, Path.open)  # type: ignore[assignment]
    StopFlag.check = partialmethod(_look, StopFlag.check)  # type: ignore[assignment]
    for method in {cls for condenser in METHODS.values() for cls in condenser.__mro__ if "step" in vars(cls)}:
        method.step = partialmethod(_step, method.step)  # type: ignore[method-assign,assignment]


def _path(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _fsync(original: Any, descriptor: int) -> None:
    path = _path(descriptor)
    _here("sync folder" if path.is_dir() else "sync", path, lambda: original(descriptor))


def _rename(original: Any, source: Any, target: Any) -> None:
    _here("rename", Path(target), lambda: original(source, target))


def _pwrite(original: Any, descriptor: int, data: Any, offset: int) -> int:
    """Half a write is one that says so: whoever called goes on with the rest."""
    written: list[int] = []

    def half() -> None:
        written.append(original(descriptor, data[: len(data) // 2], offset))

    def all_of_it() -> int:
        return written[0] if written else original(descriptor, data, offset)

    return int(_here("write", _path(descriptor), all_of_it, half))


def _open(path: Path, original: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
    file = original(path, mode, *arguments, **named)
    return file if mode in ("r", "rb") else Written(file, path)


def _save_file(original: Any, tensors: Any, path: Path, metadata: Any) -> None:
    def half() -> None:
        original(tensors, path, metadata)
        os.truncate(path, path.stat().st_size // 2)

    _here("write", path, lambda: original(tensors, path, metadata), half)


def _look(flag: StopFlag, original: Any) -> None:
    _here(LOOK, None, lambda: original(flag))


def _step(condenser: Any, original: Any, state: Any, problem: Any, iteration: int) -> Any:
    _current[0].iteration = iteration
    return _here(STEP, None, lambda: original(condenser, state, problem, iteration))
