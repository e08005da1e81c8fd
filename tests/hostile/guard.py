"""What a reader of strangers' files must not do, watched by Python's audit events and the system's counters."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, BYTES = 1.0, 200 * 10**6
"""Of processor time, and of memory above the size of the files."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
OWN = tuple(str(Path(place).resolve()) for place in {sys.prefix, sys.base_prefix, Path(__file__).parents[2]})
"""Where code and tables of Python, of packages and of ours are: anything in them may be read, and run."""
FORBIDDEN = (
    "pickle.find_class",
    "subprocess.",
    "socket.",
    "urllib.",
    "ftplib.",
    "http.",
    "shutil.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
    "os.kill",
    "ctypes.dlopen",
    "sqlite3.",
    "tempfile.",
)


@dataclass
class Case:
    """A reader at work in `folder`, and what it did that it must not do."""

    folder: str
    wrong: list[str]


_case: Case | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    global _case
    case = _case
    if case is None:
        return
    _case = None  # what follows is our own
    try:
        if wrong := _judge(case, event, arguments):
            case.wrong.append(wrong)
            raise PermissionError(wrong)
    finally:
        _case = case


def _judge(case: Case, event: str, arguments: tuple[Any, ...]) -> str | None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int):
            return None
        if isinstance(flags, int) and flags & WRITES:
            return f"writes {path!r}"
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (as it is named: links are followed)
        return None if name.startswith((case.folder + os.sep, *OWN)) else f"reads {name!r}"
    if event == "exec":
        return None if str(getattr(arguments[0], "co_filename", "")).startswith((*OWN, "<frozen")) else "runs code"
    if event == "compile":
        return None if str(arguments[1]).startswith((*OWN, "<frozen")) else f"compiles {str(arguments[0])[:100]!r}"
    return f"{event} {arguments!r}" if event.startswith(FORBIDDEN) else None


_installed = False


@contextmanager
def watched(folder: Path) -> Iterator[Case]:
    """The block is judged. Hooks are for ever, so ours is installed once, and does nothing outside of such blocks."""
    global _case, _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    case = _case = Case(str(folder.resolve()), [])
    try:
        yield case
    finally:
        _case = None


def contents(folder: Path) -> dict[str, Any]:
    """Names, kinds, sizes and times of change of all that is in a folder."""
    return {
        str(path): (os.lstat(path).st_mode, os.lstat(path).st_size, os.lstat(path).st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@dataclass
class Effort:
    """What one reading took: seconds of the processor, bytes of memory above those before it and those of its files."""

    seconds: float
    bytes: int


def judged(read: Callable[[Path], None], folder: Path, allowed: type[Exception]) -> tuple[str | None, Effort]:
    """The message with which `read` refuses `folder`, None if it takes it. Raises AssertionError for anything else."""
    before = contents(folder)
    files = sum(size for _, size, _ in before.values())
    memory, began, message = _Memory(), time.process_time(), None
    with memory, watched(folder) as case:
        try:
            read(folder)
        except allowed as error:
            message = str(error)
    effort = Effort(time.process_time() - began, max(0, memory.above - files))
    assert not case.wrong, case.wrong
    assert contents(folder) == before, "something was written"
    assert message is None or message.strip()
    assert effort.seconds <= SECONDS, effort
    assert effort.bytes <= BYTES, effort
    return message, effort


class _Memory:
    """`above` is how far the resident memory of the process rose in the block; gigabytes are refused by the system."""

    def __enter__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = _status("VmRSS")
        self._limits = resource.getrlimit(resource.RLIMIT_AS)
        most = _status("VmSize") + 20 * BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, self._limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._limits)
        self.above = _status("VmHWM") - self._before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
