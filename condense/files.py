"""Writing files so that a reader finds the old content or the new one, never half of either."""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from io import FileIO
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from condense.errors import ConfigError, DiskError


def absolute(path: Path) -> Path:
    """`path` from the root, with ~ replaced: what it names does not change with the folder a program runs in.

    Raises ConfigError for the home of a user who is not there.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error} Give the whole path.") from None


AbsolutePath = Annotated[Path, AfterValidator(absolute)]

TEMPORARY = ".tmp-"
"""How the names of unfinished files begin; what a killed process leaves behind can be deleted by it."""

_ADVICE = {
    errno.ENOSPC: "Make room on that disk, or choose a folder on another one",
    errno.EDQUOT: "Make room within your quota, or choose a folder on another disk",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or choose a folder on another disk",
    errno.EIO: "The disk or its connection fails: look at the system's log, and choose a folder on another disk",
    errno.EACCES: "Give yourself the right to write there, or choose another folder",
    errno.EPERM: "Give yourself the right to write there, or choose another folder",
    errno.EROFS: "Mount the disk for writing, or choose another folder",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "It is a link, and would lead what is written elsewhere: remove it, or choose another folder",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """In this block an error of the system is a DiskError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "Mend that, or choose another folder")
        name = re.sub(rf"{re.escape(TEMPORARY)}[0-9a-f]{{8}}-", "", str(path))  # of what a temporary file is to become
        raise DiskError(
            f"{name} cannot be written: {error.strerror or error}. {advice}; then give the command again "
            "(`condense resume` for a run). What was there before is whole; the cache is where CONDENSE_CACHE says."
        ) from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same extension) to write to; it replaces `path` when the block ends.

    Data and folder are synced to disk, so the new content survives a power cut. If the block raises, `path` is
    untouched and the temporary file is gone. What a killed process left of the same file is deleted. The folder must
    exist. Raises DiskError, which names `path`, for an error of the system, those in the block included.
    """
    with writing(path), _beside(path, lambda temporary: temporary.touch(exist_ok=False)) as temporary:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        fsync_dir(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` when the block ends, and is deleted if the block raises.

    `path` is not there, or an empty folder. What the block writes is its own to sync. Otherwise as `atomic`.
    """
    make_folder(path.parent)
    with writing(path), _beside(path, Path.mkdir) as temporary:
        yield temporary
        temporary.rename(path)  # takes the place of an empty folder, never of a full one
        fsync_dir(path.parent)


@contextmanager
def _beside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file or folder beside `path`, made by `make`; gone if the block raises.

    The system's lock is on it, which ends with the process. So those that nobody is writing any more are known, and
    deleted first.
    """
    for leftover in path.parent.glob(f"{TEMPORARY}????????-{escape(path.name)}"):
        with suppress(OSError), _open(leftover) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete(leftover)
    temporary, descriptor = _claim(path, make)
    try:
        yield temporary
    except BaseException:
        with suppress(OSError):
            _delete(temporary)
        raise
    finally:
        os.close(descriptor)


def _claim(path: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    """What `make` made beside `path`, and the descriptor by which it is locked."""
    while True:
        temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
        make(temporary)
        with suppress(FileNotFoundError):  # somebody took it for a leftover before it was locked
            descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if temporary.exists():
                return temporary, descriptor
            os.close(descriptor)


@contextmanager
def _open(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data`, all of it or nothing (see `atomic`)."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def make_folder(path: Path) -> None:
    """Make the folder `path` with those above it, unless it is there. Raises DiskError, which names it."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def open_in_place(path: Path, mode: Literal["ab", "a+b"]) -> FileIO:
    """A file to add to, without a buffer. A link is refused: it may lead to a file that is not ours."""
    return open(path, mode, buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def fsync_dir(path: Path) -> None:
    """Make the names in folder `path` (files created, renamed, deleted) survive a power cut."""
    _fsync(path)


def _fsync(path: Path) -> None:
    with _open(path) as descriptor:
        os.fsync(descriptor)
