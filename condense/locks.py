"""One process at a time in a folder."""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from condense.errors import RunError
from condense.files import open_in_place

logger = logging.getLogger("condense")

PATIENCE = 0.5
"""Seconds between two looks at a lock that is waited for."""


def lock(path: Path, wait: Callable[[], None] | None = None) -> FileIO:
    """Take the lock file `path` and write this process and machine into it; closing the returned file frees it.

    The lock is the system's (flock), so it ends with the process, however that ends; a file left behind locks nothing.
    Raises RunError if the folder cannot be written to, and if another process has the lock, naming the holder. With
    `wait` the lock is waited for instead, and `wait` called again and again until it is there, or raises.
    """
    told = False
    try:
        file = open_in_place(path, "a+b")
        while not _taken(file):
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            if wait is None:
                file.close()
                raise RunError(f"{path.parent} is in use by {holder}. Wait until it ends, or stop it, then try again.")
            if not told:
                logger.info("waiting for %s, which is in %s", holder, path.parent)
                told = True
            wait()
            time.sleep(PATIENCE)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    except OSError as error:
        raise RunError(
            f"cannot lock {path.parent}: {error.strerror} ({path}). Mend that, or choose another folder."
        ) from None
    return file


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for this folder; for changes that take a moment.

    The folder itself is what is locked, so nothing is added to it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _taken(file: FileIO) -> bool:
    """True once this process has the lock, which it tries to take."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
