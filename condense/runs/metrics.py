"""`metrics.jsonl`: one JSON object a line, one line an iteration."""

import json
import math
import os
import time
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from types import TracebackType

from condense.files import open_in_place, write_atomic, writing


class MetricsLog:
    """Append a line for every iteration: `{"iteration": i, ...metrics, "seconds": s}`.

    Iterations count from 0. `seconds` is the wall time since the line before (or since the log was opened): the only
    key in which a resumed run differs from an uninterrupted one. A value that is not finite is written as null.

    `start` is the number of completed iterations that the run goes on from: lines of later iterations, and a last line
    that was cut off, are dropped, so that no iteration is there twice. Raises DiskError where it cannot be written.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        if path.exists():
            old = path.read_bytes()
            lines = takewhile(lambda line: _iteration(line) < start, old.splitlines(keepends=True))
            kept = b"".join(lines)
            if kept != old:
                write_atomic(path, kept)
        self._path = path
        with writing(path):
            self._file = open_in_place(path, "ab")
        self._last = time.perf_counter()

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        assert not {"iteration", "seconds"} & metrics.keys(), "these two keys are the log's own"
        now = time.perf_counter()
        line = {"iteration": iteration, **metrics, "seconds": round(now - self._last, 6)}
        self._last = now
        finite = {key: value if math.isfinite(value) else None for key, value in line.items()}
        text = json.dumps(finite, allow_nan=False).encode() + b"\n"
        with writing(self._path):
            while text:
                text = text[self._file.write(text) :]

    def sync(self) -> None:
        """Make the lines so far survive a power cut; call before a checkpoint, which is to find them on resume."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class NoLog(MetricsLog):
    """Where another process writes."""

    def __init__(self) -> None: ...

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


def _iteration(line: bytes) -> float:
    """The iteration of a line; infinity if it is torn."""
    try:
        return int(json.loads(line)["iteration"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf
