"""One process at a time in a folder."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from condense.errors import RunError


def lock(path: Path) -> IO[str]:
    """Take the lock file `path` and write this process and machine into it; closing the returned file frees it.

    The lock is the system's (flock), so it ends with the process, however that ends; a file left behind locks nothing.
    Raises RunError, naming the holder, if another process has it, and if the folder cannot be written to.
    """
    try:
        file = path.open("a+")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "another process"
        file.close()
        raise RunError(
            f"{path.parent} is in use by {holder}. Wait until it ends, or stop it, then try again."
        ) from None
    except OSError as error:
        raise RunError(f"cannot lock {path.parent}: {error.strerror}.") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
