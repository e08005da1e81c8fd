"""Units as tasks of Ray Core (https://docs.ray.io), on this machine or on a cluster.

A worker does a unit in a folder that goes with it. The files come back as bytes, and the process that asked for them
writes them: no disk need be shared, and a worker that is lost leaves nothing behind that counts.
"""

import logging
import os
import shutil
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from condense.errors import CondenseError, ConfigError, NumericsError, RunError
from condense.files import TEMPORARY, make_folder, write_atomic
from condense.locks import lock
from condense.machine import describe
from condense.processes import settle_process
from condense.runs import StopFlag, Stopped
from condense.scale.unit import RESULT, Done, Event, Events, Progress, Unit, find_work

logger = logging.getLogger("condense")

POLL = 0.5
"""Seconds between two looks at the tasks, at most."""
RETRIES = 5
"""How often a unit is done again whose worker was lost."""
WORDS = 400
"""Characters of what Ray says, at the end, which is where it says what is wrong."""
HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Ray's switches for a cluster that is started here: it has the address 127.0.0.1, on Linux too, its workers have the
priority of other processes, and it reports to nobody."""


class Ray:
    """Units on the Ray cluster at `address`; without one on that of RAY_ADDRESS, or on one that is started here.

    `gpus` of each unit may be a fraction, for several units on a GPU; none: units of the CPU. `jobs` at a time; none:
    as many as there are GPUs for, or else a unit on each core.
    """

    def __init__(self, address: str | None = None, jobs: int | None = None, gpus: float | None = None) -> None:
        if find_spec("ray") is None:
            raise ConfigError("--executor ray needs Ray, which is not installed: pip install 'condense-dd[ray]'")
        if jobs is not None and jobs < 1:
            raise ConfigError(f"--jobs {jobs}: must be at least 1")
        if gpus is not None and not (0 < gpus <= 1 or (gpus > 1 and gpus.is_integer())):
            raise ConfigError(f"--gpus-per-unit {gpus}: must be a part of one GPU, such as 0.5, or a number of them")
        self._address, self._jobs, self._gpus = address, jobs, gpus
        self._stack = ExitStack()
        self._stored: dict[str, Any] = {}

    def __enter__(self) -> "Ray":
        """Connect. Raises ConfigError where no cluster answers, and for one with fewer GPUs than a unit asks for."""
        here = self._address is None and "RAY_ADDRESS" not in os.environ
        if here:
            for name, value in HERE.items():  # before the import, which reads them
                os.environ.setdefault(name, value)
        import ray

        settings: dict[str, Any] = {"address": self._address}
        if here:
            settings = {"address": "local", "include_dashboard": False}
        nowhere = self._stack.enter_context(Path(os.devnull).open("w"))
        self._stack.enter_context(redirect_stdout(nowhere))  # where Ray says what a lost worker died of
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray has put its own there, which ends the process
        except (ConnectionError, RuntimeError, ValueError) as error:
            self._stack.close()
            words = " ".join(str(error).split())[-WORDS:]
            where = "--executor ray" if here else f"--ray-address {self._address or os.environ['RAY_ADDRESS']}"
            raise ConfigError(f"{where}: no Ray cluster answers ({words})") from None
        self._stack.callback(ray.shutdown)
        self._nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        try:
            self._refuse("GPU", self._gpus or 0, f"--gpus-per-unit {self._gpus}")
        except ConfigError:
            self._stack.close()
            raise
        return self

    def _refuse(self, resource: str, wanted: float, what: str) -> None:
        """Raise ConfigError if no node has so much of it: Ray would wait for one without end."""
        most = max((node.get(resource, 0) for node in self._nodes), default=0)
        if wanted > most:
            raise ConfigError(f"{what}: no node of this Ray cluster has more than {most:g} {resource}s")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stored.clear()
        self._stack.close()

    @property
    def cores(self) -> int:
        return int(self._total("CPU"))

    def _total(self, resource: str) -> float:
        return float(sum(node.get(resource, 0) for node in self._nodes))

    @property
    def jobs(self) -> int:
        if self._jobs is not None:
            return self._jobs
        return max(1, self.cores if self._gpus is None else int(self._total("GPU") / self._gpus))

    @property
    def threads(self) -> int:
        """The cores of the cluster over the jobs, and no more than every node has."""
        return max(1, min([self.cores // self.jobs, *(int(node["CPU"]) for node in self._nodes if "CPU" in node)]))

    @property
    def flags(self) -> list[str]:
        given = {"--ray-address": self._address, "--gpus-per-unit": self._gpus, "--jobs": self._jobs}
        words = [str(word) for flag, value in given.items() if value is not None for word in (flag, value)]
        return ["--executor", "ray", *words]

    def run(self, units: Sequence[Unit], threads: int, stop: StopFlag) -> Events:
        """As `Executor.run`. A unit whose worker or node is lost is done again, up to RETRIES times."""
        import ray

        self._refuse("CPU", threads, f"units of {threads} threads")
        task = ray.remote(max_calls=1)(_perform).options(  # a process for each unit, as on one machine
            num_cpus=threads,
            num_gpus=self._gpus or 0,
            num_returns="streaming",
            max_retries=0,  # we do it, and say so
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
        pending, lost = list(units), Counter[str]()
        running: dict[Any, _Task] = {}
        try:
            while pending or running:
                stop.check()
                while len(running) < self.jobs and (unit := next((unit for unit in pending if unit.free()), None)):
                    pending.remove(unit)
                    unit.error.unlink(missing_ok=True)
                    shared = self._store(unit)
                    said = task.remote(unit.work_name, unit.folder.name, shared, dict(unit.arguments), _versions())
                    running[said] = _Task(unit, time.monotonic())
                if not running:
                    time.sleep(POLL)  # for processes of an earlier command to leave the folders
                    continue
                ready, _ = ray.wait(list(running), num_returns=len(running), timeout=POLL)
                for said in ready:
                    unit, began = running[said].unit, running[said].began
                    try:
                        word = ray.get(next(said))
                    except ray.exceptions.RayTaskError as error:  # not even begun: a package is missing there, say
                        word = _Ended({}, str(error), type(error).__name__, {})
                    except ray.exceptions.RayError as error:
                        del running[said]
                        lost[unit.name] += 1
                        why = f"its worker was lost ({type(error).__name__})"
                        if lost[unit.name] > RETRIES:
                            yield unit.failed(f"{why}, {lost[unit.name]} times", str(error))
                        else:
                            logger.info("%s: %s; again, %d of %d", unit.name, why, lost[unit.name], RETRIES)
                            pending.append(unit)
                            yield Progress(unit, 0)
                        continue
                    if isinstance(word, int):
                        yield Progress(unit, word)
                        continue
                    del running[said]
                    yield _keep(unit, word, time.monotonic() - began)
        finally:
            for said in running:
                ray.cancel(said, force=True)

    def _store(self, unit: Unit) -> Any:
        """What the unit shares with others, in the object store, where it is put once."""
        import ray

        key, load = unit.shared
        if key not in self._stored:
            self._stored[key] = ray.put(load())
        return self._stored[key]


@dataclass(frozen=True)
class _Task:
    unit: Unit
    began: float


@dataclass(frozen=True)
class _Ended:
    """How a unit ended on a worker: its files by their paths, what it said, its error if it raised one, the machine."""

    files: dict[str, bytes]
    said: str
    error: str | None
    machine: dict[str, str]


def _perform(
    work: str, name: str, shared: Any, arguments: dict[str, Any], versions: dict[str, str]
) -> Iterator[int | _Ended]:
    """On the worker: do a unit in a folder that goes with it. Says how far it is, and last how it ended."""
    settle_process()
    said, error = StringIO(), None
    handler = logging.StreamHandler(said)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    with TemporaryDirectory(prefix="condense-") as place:
        folder = Path(place) / name
        try:
            if _versions() != versions:
                raise RunError(f"this worker has {_versions()}, and the command that asks it {versions}: install equal")
            with redirect_stderr(said):
                yield from find_work(work)(folder, shared, **arguments)
        except Stopped:  # not the unit's own doing: the worker is told to go
            shutil.rmtree(place)
            os._exit(1)
        except (CondenseError, NumericsError, OSError) as raised:
            error = type(raised).__name__
            said.writelines(f"error: {line}\n" for line in str(raised).splitlines())
        except Exception as raised:
            error = type(raised).__name__
            said.write(traceback.format_exc())
        finally:
            logger.removeHandler(handler)
        files = {} if error else {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder)}
        yield _Ended(files, said.getvalue(), error, describe())


def _files(folder: Path) -> list[Path]:
    """What a unit leaves: not its lock, and no unfinished files."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if path.name != "lock" and not path.name.startswith(TEMPORARY)]


def _keep(unit: Unit, ended: _Ended, seconds: float) -> Event:
    """Write what came of a unit, its RESULT last. What an earlier, unfinished attempt left gives way."""
    with unit.open_log() as log:
        log.write(ended.said.encode())
    if ended.error is not None:
        return unit.failed(ended.error, ended.said)
    if unit.folder.exists():
        shutil.rmtree(unit.folder)
    make_folder(unit.folder)
    with lock(unit.folder / "lock"):
        for path in sorted(ended.files, key=lambda path: path == RESULT):
            target = unit.folder / path
            make_folder(target.parent)
            write_atomic(target, ended.files[path])
    return Done(unit, seconds, ended.machine)


def _versions() -> dict[str, str]:
    """What must be the same on all machines, as the bits depend on it."""
    machine = describe()
    return {name: machine[name] for name in ("condense", "torch")}
