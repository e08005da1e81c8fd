"""How far a run is, on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from condense.processes import rank

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines, at least."""


class ProgressDisplay(Protocol):
    def update(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show that `iteration` (from 0) is done; `metrics["loss"]` is shown where there is one."""


@contextmanager
def progress(total: int, start: int = 0, description: str = "") -> Iterator[ProgressDisplay]:
    """A display for `total` iterations, `start` of which were done before: loss, iterations a second, time left.

    Of several processes that torchrun started the first one shows it.
    """
    if rank():
        yield _Nothing()
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            yield _Bar(bar, total, start, description)
    else:
        lines = _Lines(total, start, description)
        try:
            yield lines
        finally:
            lines.close()


class _Rate:
    """Iterations a second since the display began."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._began = time.monotonic()

    def __call__(self, done: int) -> float:
        return (done - self._start) / max(time.monotonic() - self._began, 1e-9)


def _status(metrics: Mapping[str, float], rate: float) -> str:
    loss = f"loss {metrics['loss']:.4g}  " if "loss" in metrics else ""
    return f"{loss}{rate:.3g} it/s"


class _Bar:
    def __init__(self, bar: Progress, total: int, start: int, description: str) -> None:
        self._bar = bar
        self._rate = _Rate(start)
        self._task = bar.add_task(description, total=total, completed=start, status="")

    def update(self, iteration: int, metrics: Mapping[str, float]) -> None:
        done = iteration + 1
        self._bar.update(self._task, completed=done, status=_status(metrics, self._rate(done)))


class _Nothing:
    def update(self, iteration: int, metrics: Mapping[str, float]) -> None: ...


class _Lines:
    def __init__(self, total: int, start: int, description: str) -> None:
        self._total = total
        self._description = description
        self._rate = _Rate(start)
        self._printed = time.monotonic()
        self._line: str | None = None  # the newest, while it is not printed

    def update(self, iteration: int, metrics: Mapping[str, float]) -> None:
        done = iteration + 1
        rate = self._rate(done)
        left = (self._total - done) / rate
        self._line = (
            f"{self._description} {done}/{self._total}  {_status(metrics, rate)}  {duration(left)} left".lstrip()
        )
        if time.monotonic() - self._printed >= PLAIN_INTERVAL:
            self.close()

    def close(self) -> None:
        if self._line is not None:
            print(self._line, file=sys.stderr, flush=True)
            self._printed = time.monotonic()
            self._line = None


def duration(seconds: float) -> str:
    """H:MM:SS, rounded."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
