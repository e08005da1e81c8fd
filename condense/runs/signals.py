"""Stopping a run between two iterations."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Stopped(Exception):  # noqa: N818 (not an error: what was asked for)
    """The run stopped between two steps because of a signal, with everything so far on disk."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        return 75 if self.number == signal.SIGTERM else 130


@dataclass
class StopFlag:
    """`requested` is the number of the first signal that asked the run to stop, None while there was none."""

    requested: int | None = None

    def check(self) -> None:
        """Raise Stopped if a stop is requested; call where what has been done so far is safe."""
        if self.requested is not None:
            raise Stopped(self.requested)


@contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Inside the block SIGTERM and SIGINT only raise the flag, for the loop to read after each iteration.

    A SIGINT once a stop is requested raises KeyboardInterrupt at once. The old handlers come back afterwards. Outside
    the main thread, where Python allows no handlers, the flag just stays down.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (a handler's signature)
        if number == signal.SIGINT and flag.requested is not None:
            raise KeyboardInterrupt
        flag.requested = flag.requested or number

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: a handler that Python did not set
