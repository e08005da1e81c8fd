"""Writing files so that a reader finds the old content or the new one, never half of either."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def absolute(path: Path) -> Path:
    """`path` from the root, with ~ replaced: what it names does not change with the folder a program runs in."""
    return path.expanduser().absolute()


AbsolutePath = Annotated[Path, AfterValidator(absolute)]

TEMPORARY = ".tmp-"
"""How the names of unfinished files begin; what a killed process leaves behind can be deleted by it."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same extension) to write to; it replaces `path` when the block ends.

    Data and folder are synced to disk, so the new content survives a power cut. If the block raises, `path` is
    untouched and the temporary file is gone. The folder must exist.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data`, all of it or nothing (see `atomic`)."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def fsync_dir(path: Path) -> None:
    """Make the names in folder `path` (files created, renamed, deleted) survive a power cut."""
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
