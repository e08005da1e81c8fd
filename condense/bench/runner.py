"""Running the cells of a bench, each in a process of its own, so many at a time."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from condense.bench.folder import BenchFolder, Record
from condense.bench.grid import Cell, check, given, read_grid
from condense.bench.machine import cores, describe
from condense.config import Resolved, read_resolved
from condense.errors import ConfigError, RunError
from condense.files import make_folder, open_in_place, write_atomic, writing
from condense.locks import lock
from condense.processes import how_it_ended, tied_to_this_process
from condense.runs import StopFlag, read_config, stop_signals
from condense.runs.config_file import to_toml
from condense.runs.progress import duration

logger = logging.getLogger("condense")

POLL = 0.1
"""Seconds between two looks at the processes."""
LAST_WORDS, WORD_LENGTH = 5, 300
"""Lines of a failed cell's log that are kept, and their characters."""
MENTIONED = 3


def run_bench(grid_path: Path, out: Path, jobs: int = 1) -> list[str]:
    """Run every cell of the grid in the folder `out` that is not finished there, and return those that failed.

    A bench that was stopped or killed goes on where it was: finished cells are left as they are, others resume, failed
    ones are tried again. All cells compute with the same number of threads, the cores over the jobs of the first
    command, since the bits depend on it.

    Raises ConfigError or DataError, all problems at once, before anything is written: for a wrong grid, and for one
    that gives finished or begun cells of this folder other keys. RunError if another bench is in the folder. Stopped on
    SIGTERM or SIGINT, which the cells are given too; a second SIGINT stops them at once.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: must be at least 1")
    cells = read_grid(grid_path).cells()
    resolved = check(cells)
    folder = BenchFolder(out)
    _refuse_contradictions(folder, resolved)
    make_folder(folder.cells)
    with lock(out / "lock"):
        record = _record(folder, grid_path, jobs)
        folder.write_record(record)
        if grid_path.absolute() != folder.grid.absolute():
            write_atomic(folder.grid, grid_path.read_bytes())
        for cell in cells:
            if not folder.started(cell.name):
                write_atomic(folder.config(cell.name), to_toml(*given(cell, resolved[cell.name])).encode())
        if jobs * record.threads > cores():
            logger.info("%d jobs of %d threads, as this bench began, on %d cores", jobs, record.threads, cores())
        with stop_signals() as stop:
            _Queue(folder, cells, jobs, record.threads).work(stop)
    return [cell.name for cell in cells if not folder.finished(cell.name)]


def _record(folder: BenchFolder, grid_path: Path, jobs: int) -> Record:
    before, machine = folder.read_record(), describe()
    machines = before.machines if before else ()
    return Record(
        threads=before.threads if before else max(1, cores() // jobs),
        jobs=jobs,
        command=shlex.join(["condense", "bench", str(grid_path), "--out", str(folder.path), "--jobs", str(jobs)]),
        machines=machines if machine in machines else (*machines, machine),
    )


def _refuse_contradictions(folder: BenchFolder, resolved: dict[str, Resolved]) -> None:
    """Raise ConfigError where a run in the folder was made with other keys than the grid gives it."""
    different: dict[str, list[str]] = {}
    for name, wanted in resolved.items():
        if not folder.started(name):
            continue
        path = folder.run(name)
        held = read_resolved(read_config(path), str(path / "config.toml")).values()
        settled = [("compile", "auto"), *([("micro_batch", None)] if wanted.run.memory_limit else [])]
        for key, value in wanted.values().items():
            if held.get(key) != value and (key, value) not in settled:  # a run records what these came to
                words = f"{key} = {held.get(key)!r} there, {value!r} in the grid"
                different.setdefault(words, []).append(name)
    if different:
        lines = [f"{_few(names)}: {words}" for words, names in different.items()]
        advice = (
            f"{folder.path} holds these cells with other keys. Undo the changes to the grid, or choose another --out"
        )
        raise ConfigError("\n".join([*lines, advice]))


def _few(names: list[str]) -> str:
    more = f" and {len(names) - MENTIONED} more" if len(names) > MENTIONED else ""
    return ", ".join(names[:MENTIONED]) + more


@dataclass
class _Child:
    cell: Cell
    process: subprocess.Popen[bytes]
    began: float
    log_start: int


class _Queue:
    """The cells that are still to be done, and the processes at work on some of them."""

    def __init__(self, folder: BenchFolder, cells: list[Cell], jobs: int, threads: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.total = len(cells)
        self.pending = [cell for cell in cells if not folder.finished(cell.name)]
        self.running: list[_Child] = []
        self.took: list[tuple[Cell, float]] = []
        self.waiting = False

    def work(self, stop: StopFlag) -> None:
        """Until nothing is left. A stop is passed on, and raises Stopped when the processes have ended."""
        if done := self.total - len(self.pending):
            logger.info("%d of %d cells are done already", done, self.total)
        passed_on = False
        try:
            while self.pending or self.running:
                if stop.requested is None:
                    self._start()
                else:
                    self.pending.clear()
                    if not passed_on:
                        logger.info("stopping: the cells save what they have")
                        self._signal(stop.requested)
                        passed_on = True
                self._collect(stop)
                time.sleep(POLL)
        except BaseException:  # a second SIGINT, or a bug: nothing goes on without the bench
            self._signal(signal.SIGINT)
            for child in self.running:
                child.process.wait()
            raise
        stop.check()

    def _start(self) -> None:
        """Fill the free places with cells in whose folder nobody is."""
        while self.pending and len(self.running) < self.jobs:
            cell = next((cell for cell in self.pending if _free(self.folder.run(cell.name))), None)
            if cell is None:
                if not self.waiting:
                    logger.info("waiting for processes of an earlier bench that are still in its cells")
                    self.waiting = True
                return
            self.pending.remove(cell)
            self.running.append(self._launch(cell))

    def _launch(self, cell: Cell) -> _Child:
        folder, name = self.folder, cell.name
        with writing(folder.log(name)):
            folder.error(name).unlink(missing_ok=True)
            log = open_in_place(folder.log(name), "ab")
        with log:
            start = log.tell()
            process = subprocess.Popen(
                command(folder, name),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # a Ctrl-C reaches the bench alone, which passes it on
                preexec_fn=tied_to_this_process(),
            )
        return _Child(cell, process, time.monotonic(), start)

    def _collect(self, stop: StopFlag) -> None:
        """Take note of the processes that have ended."""
        for child in [child for child in self.running if child.process.poll() is not None]:
            self.running.remove(child)
            name, seconds = child.cell.name, time.monotonic() - child.began
            if self.folder.finished(name):
                self.took.append((child.cell, seconds))
                self._say(name, f"done in {duration(seconds)}")
            elif stop.requested is None:
                words = _last_words(self.folder.log(name), child.log_start, child.process.returncode)
                write_atomic(self.folder.error(name), words.encode())
                self._say(name, f"FAILED: {words.splitlines()[-1]}")

    def _say(self, name: str, what: str) -> None:
        left = len(self.pending) + len(self.running)
        seconds = sum(map(self._estimate, [*self.pending, *(child.cell for child in self.running)])) / self.jobs
        rest = f"  about {duration(seconds)} left" if left and self.took else ""
        logger.info("%d/%d  %s  %s%s", self.total - left, self.total, name, what, rest)

    def _estimate(self, cell: Cell) -> float:
        """Seconds, from cells that differ in the seed alone where some have ended, else from all that have."""
        alike = [
            seconds
            for done, seconds in self.took
            if (done.dataset, done.label, done.ipc) == (cell.dataset, cell.label, cell.ipc)
        ]
        return fmean(alike or [seconds for _, seconds in self.took] or [0])

    def _signal(self, number: int) -> None:
        for child in self.running:
            child.process.send_signal(number)


def command(folder: BenchFolder, cell: str) -> list[str]:
    """What a cell's process runs: a new run, or the rest of one."""
    program = [sys.executable, "-m", "condense"]
    if folder.started(cell):
        return [*program, "resume", str(folder.run(cell))]
    return [*program, "run", "--config", str(folder.config(cell)), "--out", str(folder.run(cell))]


def _free(run: Path) -> bool:
    """Whether no process is in a run folder, such as a child of a killed bench that has not ended yet."""
    if not (run / "lock").exists():
        return True
    try:
        lock(run / "lock").close()
    except RunError:
        return False
    return True


def _last_words(log: Path, start: int, code: int) -> str:
    """How a process ended, and the last lines that it wrote from byte `start` of its log on."""
    written = log.read_bytes()[start:].decode(errors="replace")
    lines = [line for line in written.splitlines() if line.strip()]
    return "\n".join([how_it_ended(code), *(line[:WORD_LENGTH] for line in lines[-LAST_WORDS:])])
