"""Units as processes of this machine, so many at a time."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO

from condense.errors import ConfigError
from condense.machine import cores, describe
from condense.processes import how_it_ended, tied_to_this_process
from condense.runs import StopFlag
from condense.scale.unit import Done, Events, Progress, Unit, find_work

logger = logging.getLogger("condense")

POLL = 0.1
"""Seconds between two looks at the processes."""


class Local:
    """Each unit in a process of its own, `jobs` at a time."""

    def __init__(self, jobs: int = 1) -> None:
        if jobs < 1:
            raise ConfigError(f"--jobs {jobs}: must be at least 1")
        self.jobs = jobs

    @property
    def cores(self) -> int:
        return cores()

    @property
    def threads(self) -> int:
        return max(1, self.cores // self.jobs)

    @property
    def flags(self) -> list[str]:
        return ["--jobs", str(self.jobs)]

    def __enter__(self) -> "Local":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def run(self, units: Sequence[Unit], threads: int, stop: StopFlag) -> Events:
        """As `Executor.run`. A stop is passed on to the processes, which save what they have."""
        yield from _Queue(units, self.jobs, threads).work(stop)


@dataclass
class _Child:
    unit: Unit
    process: subprocess.Popen[bytes]
    began: float
    log_start: int
    progress: int  # the end of a pipe, to read from

    def steps(self) -> int | None:
        """The newest number that came through the pipe since the last look."""
        try:
            return int(os.read(self.progress, 1 << 16).split()[-1])
        except (BlockingIOError, IndexError):  # nothing new, or it has ended
            return None


class _Queue:
    """The units that are still to be done, and the processes at work on some of them."""

    def __init__(self, units: Sequence[Unit], jobs: int, threads: int) -> None:
        self.jobs = jobs
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.pending = list(units)
        self.running: list[_Child] = []
        self.waiting = False

    def work(self, stop: StopFlag) -> Events:
        """Until nothing is left. A stop is passed on, and raises Stopped when the processes have ended."""
        passed_on = False
        try:
            while self.pending or self.running:
                if stop.requested is None:
                    self._start()
                else:
                    self.pending.clear()
                    if not passed_on:
                        logger.info("stopping: what is at work saves what it has")
                        self._signal(stop.requested)
                        passed_on = True
                yield from self._collect(stop)
                time.sleep(POLL)
        except BaseException:  # a second SIGINT, or a bug: nothing goes on without this process
            self._signal(signal.SIGINT)
            for child in self.running:
                child.process.wait()
            raise
        stop.check()

    def _start(self) -> None:
        """Fill the free places with units in whose folder nobody is."""
        while self.pending and len(self.running) < self.jobs:
            unit = next((unit for unit in self.pending if unit.free()), None)
            if unit is None:
                if not self.waiting:
                    logger.info("waiting for processes of an earlier command that are still at work here")
                    self.waiting = True
                return
            self.pending.remove(unit)
            self.running.append(self._launch(unit))

    def _launch(self, unit: Unit) -> _Child:
        unit.error.unlink(missing_ok=True)
        read, write = os.pipe()
        os.set_blocking(read, False)
        with unit.open_log() as log, TemporaryFile() as message:
            start = log.tell()
            message.write(json.dumps({"work": unit.work_name, "arguments": unit.arguments, "progress": write}).encode())
            message.seek(0)
            process = subprocess.Popen(
                command(unit),
                env=self.environment,
                stdin=message,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                process_group=0,  # a Ctrl-C reaches this process alone, which passes it on
                preexec_fn=tied_to_this_process(),
            )
        os.close(write)
        return _Child(unit, process, time.monotonic(), start, read)

    def _collect(self, stop: StopFlag) -> Events:
        """Take note of what the processes have done, and of those that have ended."""
        for child in list(self.running):
            code = child.process.poll()
            if (steps := child.steps()) is not None:
                yield Progress(child.unit, steps)
            if code is None:
                continue
            self.running.remove(child)
            os.close(child.progress)
            if child.unit.finished:
                yield Done(child.unit, time.monotonic() - child.began, describe())
            elif stop.requested is None:
                said = child.unit.log.read_bytes()[child.log_start :].decode(errors="replace")
                yield child.unit.failed(how_it_ended(code), said)

    def _signal(self, number: int) -> None:
        for child in self.running:
            child.process.send_signal(number)


def command(unit: Unit) -> list[str]:
    """What the process of a unit runs; the rest comes on its stdin."""
    return [sys.executable, "-m", "condense", "unit", str(unit.folder)]


def do_unit(folder: Path, message: IO[str]) -> None:
    """In that process: do the unit that the message describes."""
    described = json.load(message)
    with open(described["progress"], "w") as progress:  # noqa: PTH123 (the number of a pipe)
        for steps in find_work(described["work"])(folder, None, **described["arguments"]):
            print(steps, file=progress, flush=True)
