"""Running the cells of a bench, each a unit of work, so many at a time."""

import logging
import shlex
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from condense import api
from condense.bench.folder import BenchFolder, Record
from condense.bench.grid import Cell, check, given, read_grid
from condense.config import Layer, Resolved, read_resolved, resolve
from condense.data import RealData
from condense.errors import ConfigError
from condense.evaluation import percent
from condense.files import make_folder, write_atomic
from condense.locks import lock
from condense.machine import describe
from condense.provide import digest, load_run_data
from condense.runs import StopFlag, read_config, stop_signals
from condense.runs.config_file import to_toml
from condense.runs.progress import duration
from condense.scale import Done, Executor, Failed, Local, Shared, Unit

logger = logging.getLogger("condense")

MENTIONED = 3


def run_bench(grid_path: Path, out: Path, executor: Executor | None = None) -> list[str]:
    """Run every cell of the grid in the folder `out` that is not finished there, and return those that failed.

    Where: by default a process of this machine for each, one at a time. A bench that was stopped or killed goes on
    where it was: finished cells are left as they are, others resume (begin anew where they come from another machine),
    failed ones are tried again. All cells compute with the same number of threads, since the bits depend on it: that of
    the grid, or else the cores over the jobs of the first command.

    Raises ConfigError or DataError, all problems at once, before anything is written: for a wrong grid, and for one
    that gives finished or begun cells of this folder other keys. RunError if another bench is in the folder. Stopped on
    SIGTERM or SIGINT, which the cells are given too; a second SIGINT stops them at once.
    """
    grid = read_grid(grid_path)
    cells = grid.cells()
    resolved = check(cells)
    folder = BenchFolder(out)
    _refuse_contradictions(folder, resolved)
    with executor or Local() as executor:
        make_folder(folder.cells)
        with lock(out / "lock"):
            record = _record(folder, grid_path, grid.threads, executor)
            folder.write_record(record)
            if grid_path.absolute() != folder.grid.absolute():
                write_atomic(folder.grid, grid_path.read_bytes())
            for cell in cells:
                if not folder.started(cell.name):
                    write_atomic(folder.config(cell.name), to_toml(*given(cell, resolved[cell.name])).encode())
            if executor.jobs * record.threads > executor.cores:
                words = "%d jobs of %d threads, as this bench began, on %d cores"
                logger.info(words, executor.jobs, record.threads, executor.cores)
            with stop_signals() as stop:
                _Bench(folder, cells, resolved).work(executor, record, stop)
    return [cell.name for cell in cells if not folder.finished(cell.name)]


def _record(folder: BenchFolder, grid_path: Path, threads: int | None, executor: Executor) -> Record:
    before = folder.read_record()
    if before and threads not in (None, before.threads):
        raise ConfigError(
            f"{folder.path} began with {before.threads} threads, and the grid says threads = {threads}. "
            "Change the grid, or choose another --out"
        )
    record = Record(
        threads=before.threads if before else threads or executor.threads,
        jobs=executor.jobs,
        command=shlex.join(["condense", "bench", str(grid_path), "--out", str(folder.path), *executor.flags]),
        machines=before.machines if before else (),
    )
    return record.on(describe())


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


def run_cell(folder: Path, data: RealData | None, *, given: dict[str, Any], origin: str) -> Iterator[int]:
    """The work of a cell: `condense run` with the keys `given`, or `condense resume`."""
    if (folder / "config.toml").exists():
        result = api.resume(folder)
    else:
        result = api.run(resolve([Layer(origin, given)]), folder, data)
    for made in result.evaluations:
        logger.info("%s: %s %%", made.network, percent(made.mean, made.ci95))
    yield 1


class _Bench:
    """The cells of a bench that are to be done, and what is said of them."""

    def __init__(self, folder: BenchFolder, cells: list[Cell], resolved: dict[str, Resolved]) -> None:
        self.folder = folder
        self.cells = {cell.name: cell for cell in cells}
        self.resolved = resolved
        self.left = [cell for cell in cells if not folder.finished(cell.name)]
        self.took: list[tuple[Cell, float]] = []

    def work(self, executor: Executor, record: Record, stop: StopFlag) -> None:
        """Until nothing is left."""
        if done := len(self.cells) - len(self.left):
            logger.info("%d of %d cells are done already", done, len(self.cells))
        units = [self._unit(cell) for cell in self.left]
        with closing(executor.run(units, record.threads, stop)) as events:
            for event in events:
                cell = self.cells[event.unit.name]
                if isinstance(event, Done):
                    self.took.append((cell, event.seconds))
                    record = record.on(event.machine)
                    self.folder.write_record(record)
                    self._say(cell, f"done in {duration(event.seconds)}", executor.jobs)
                elif isinstance(event, Failed):
                    self._say(cell, f"FAILED: {event.words.splitlines()[-1]}", executor.jobs)

    def _unit(self, cell: Cell) -> Unit:
        resolved, config = self.resolved[cell.name], self.folder.config(cell.name)
        r = resolved.run
        source = {"dataset": r.dataset, "data_root": str(r.data_root), "validation": r.validation}
        return Unit(
            name=cell.name,
            folder=self.folder.run(cell.name),
            work=run_cell,
            arguments={"given": given(cell, resolved)[0], "origin": str(config)},
            shared=Shared(digest(source), partial(load_run_data, resolved)),
        )

    def _say(self, cell: Cell, what: str, jobs: int) -> None:
        self.left.remove(cell)
        seconds = sum(map(self._estimate, self.left)) / jobs
        rest = f"  about {duration(seconds)} left" if self.left and self.took else ""
        logger.info("%d/%d  %s  %s%s", len(self.cells) - len(self.left), len(self.cells), cell.name, what, rest)

    def _estimate(self, cell: Cell) -> float:
        """Seconds, from cells that differ in the seed alone where some have ended, else from all that have."""
        alike = [
            seconds
            for done, seconds in self.took
            if (done.dataset, done.label, done.ipc) == (cell.dataset, cell.label, cell.ipc)
        ]
        return fmean(alike or [seconds for _, seconds in self.took] or [0])
