"""A unit of work: it depends on its inputs alone, so it can be done anywhere, twice, or again.

What it does is a function of the package, `work(folder, shared, **arguments)`, which yields how many of its steps are
done. It writes into a folder of its own, each file whole or not at all, and RESULT last: with that it is finished.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from condense.errors import RunError
from condense.files import make_folder, open_in_place, write_atomic, writing
from condense.locks import lock
from condense.runs import StopFlag

Work = Callable[..., Iterator[int]]

RESULT = "result.json"
LAST_WORDS, WORD_LENGTH = 5, 300
"""Lines of a failed unit's log that are kept, and their characters."""


class Shared(NamedTuple):
    """What many units read, such as real data: `load` makes it where the files are, `key` is a hash that names it.

    A process of this machine is given None in its place and reads the files itself.
    """

    key: str
    load: Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Unit:
    """One unit. `arguments` are plain JSON values, and `work` is found by its name, so a message can describe it."""

    name: str
    folder: Path
    work: Work
    arguments: Mapping[str, Any]
    shared: Shared

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def open_log(self) -> FileIO:
        """The same, to be added to."""
        make_folder(self.log.parent)
        with writing(self.log):
            return open_in_place(self.log, "ab")

    @property
    def error(self) -> Path:
        """Its last words, if it failed."""
        return self.folder.with_name(f"{self.folder.name}.error")

    @property
    def finished(self) -> bool:
        return (self.folder / RESULT).exists()

    @property
    def work_name(self) -> str:
        return f"{self.work.__module__}:{self.work.__qualname__}"

    def free(self) -> bool:
        """Whether no process is in its folder, such as a child of a killed command that has not ended yet."""
        if not (self.folder / "lock").exists():
            return True
        try:
            lock(self.folder / "lock").close()
        except RunError:
            return False
        return True

    def failed(self, how: str, said: str) -> "Failed":
        """Keep the last lines of what it said under `how` it ended."""
        lines = [line[:WORD_LENGTH] for line in said.splitlines() if line.strip()]
        words = "\n".join([how, *lines[-LAST_WORDS:]])
        write_atomic(self.error, words.encode())
        return Failed(self, words)


def find_work(name: str) -> Work:
    """The function behind `Unit.work_name`."""
    module, _, attribute = name.partition(":")
    work: Work = getattr(import_module(module), attribute)
    return work


class Progress(NamedTuple):
    """So many steps of a unit are done; fewer than before if it began again."""

    unit: Unit
    steps: int


class Done(NamedTuple):
    """A unit is finished, and its files are in its folder. `machine` did it, in words (`condense.machine`)."""

    unit: Unit
    seconds: float
    machine: dict[str, str]


class Failed(NamedTuple):
    """A unit failed for a reason of its own; `words` are in its `error` file too."""

    unit: Unit
    words: str


Event = Progress | Done | Failed
Events = Generator[Event, None, None]


class Executor(AbstractContextManager["Executor"], Protocol):
    """Does units, `jobs` at a time. What follows is known inside its `with` block.

    `threads` is what a unit computes with where nothing else is known: the `cores` over the jobs. Bits depend on it.
    `flags` are those of the command line that mean this executor.
    """

    @property
    def jobs(self) -> int: ...
    @property
    def cores(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def flags(self) -> list[str]: ...

    def run(self, units: Sequence[Unit], threads: int, stop: StopFlag) -> Events:
        """Do the units, and say what happens to them. Those that fail keep nobody from the others.

        Raises Stopped once a stop is requested and what was at work has ended. Closing the iterator ends that too.
        """
