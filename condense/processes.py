"""This program's processes: how they begin, which were started beside this one, that children end with it, and how."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

from condense.allocator import tune_allocator
from condense.cache import cache_dir

PR_SET_PDEATHSIG = 1


def settle_process() -> None:
    """At the start of a process of this program: memory is reused, and compiled code is kept."""
    tune_allocator()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))


def tied_to_this_process() -> Callable[[], None] | None:
    """For the child, before it starts: SIGTERM when this process is gone, so that it saves what it has and ends.

    Linux only. Elsewhere the children of a killed process finish what they are at.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # gone before it was asked for
            os._exit(1)

    return tie


def started() -> int:
    """How many processes torchrun started, this one among them; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ["RANK"]) if started() > 1 else 0


def local_rank() -> int:
    """The same among those on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if started() > 1 else 0


def how_it_ended(code: int) -> str:
    """The return code of a process in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
