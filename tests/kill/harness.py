"""Kill `condense` anywhere, type what a user would type then, and compare the bytes with those of a quiet life.

    python tests/kill/harness.py FOLDER [--sample 20] [--scenario NAME ...]

prints a JSON line for each quiet life and for each kill: scenario, signal, iteration, place, moment, how the process
ended, and whether the end is the same. Python and torch are loaded once: each command is a fork of this process, which
therefore has one thread and never computes.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "methods")]

import torch
from places import LOOK, STEP, Event, Kill, watch
from scenarios import (
    FORMATS,
    WATCHED,
    Command,
    Scenario,
    brief_protocols,
    of_bench,
    of_buffer,
    of_export,
    of_method,
    write_data,
)

from condense import rng
from condense.artifact import read_manifest
from condense.cli import main
from condense.evaluation import protocols
from condense.methods import METHODS
from condense.processes import how_it_ended
from condense.scale import local

POLITE = (signal.SIGTERM, signal.SIGINT)
STOPPED = {signal.SIGTERM: 75, signal.SIGINT: 130}
MOST, OTHERS = 200, 75
RACES = ("run", "resume", "buffer", "bench", "bench cache", "eval")
Traces = dict[str, list[Event]]


class Forked:
    """In the place of `subprocess.Popen` for the cells of a bench: a fork that runs the same command line."""

    case: "Case | None" = None

    def __init__(self, arguments: Sequence[str], *, stdin: Any, stdout: Any, preexec_fn: Any, **_: Any) -> None:
        self.returncode: int | None = None
        assert Forked.case is not None
        verb = list(arguments[3:])

        def first() -> None:
            preexec_fn()
            os.dup2(stdin.fileno(), 0)
            sys.stdin = os.fdopen(0)

        self.pid = Forked.case.start(verb, verb[-1].rpartition("/")[2], stdout.fileno(), first)
        self.args = verb

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Case:
    """A folder in which commands are run, each as a process of its own, one of which may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kill: Kill | None = None
        folder.mkdir(parents=True)

    @property
    def said(self) -> Path:
        return self.folder / "said.json"

    def start(self, command: Command, process: str, output: int, first: Any = None) -> int:
        """Fork a process that runs the command, and return its number."""
        sys.stdout.flush(), sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(output, 1), os.dup2(output, 2)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            os.environ["CONDENSE_CACHE"] = str(self.folder / "cache")
            os.setpgid(0, 0)
            if first is not None:
                first()
            Forked.case = self
            watched = watch(process, self.kill, self.said)
            try:
                main(command)
            except SystemExit as ended:
                code = int(ended.code or 0)
            found = {"events": watched.events, "modules": [*sys.modules]}
            os.write(
                os.open(self.folder / f"trace-{process}.json", os.O_WRONLY | os.O_CREAT), json.dumps(found).encode()
            )
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def run(self, command: Command, process: str, kill: Kill | None = None) -> int:
        """The return code of a command, as `subprocess` has it."""
        self.kill = kill
        self.said.unlink(missing_ok=True)
        output = os.open(self.folder / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.start(command, process, output), 0)[1])
        finally:
            os.close(output)

    def end(self, scenario: Scenario) -> None:
        """Type on until everything has ended well."""
        for number, step in enumerate(scenario.steps):
            command = step(self.folder)
            if command:
                code = self.run(command, f"step{number}")
                assert code == 0, f"{self.folder}: {command}: {how_it_ended(code)}"

    def traces(self) -> Traces:
        """What each process did to files. What it had to load is loaded here, for those to come."""
        traces = {}
        for file in sorted(self.folder.glob("trace-*.json")):
            found = json.loads(file.read_text())
            traces[file.stem.removeprefix("trace-")] = [Event(*event) for event in found["events"]]
            for module in found["modules"]:
                if module not in sys.modules:
                    with suppress(ImportError):
                        importlib.import_module(module)
        assert threads() == 1, "a fork has but one thread"
        return traces


@dataclass(frozen=True)
class Plan:
    """The kills of one life: the second is during what follows the first."""

    scenario: str
    kills: tuple[Kill, ...]


class Harness:
    def __init__(self, root: Path, names: Sequence[str] = ()) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        brief = brief_protocols()
        protocols.load_protocols = lambda: brief  # type: ignore[assignment]
        local.subprocess.Popen, local.POLL = Forked, 0.01
        write_data(root / "blobs.npz")
        self.quiet: dict[str, dict[str, str]] = {}
        self.traces: dict[str, Traces] = {}
        self.scenarios: dict[str, Scenario] = {}
        self.names = names or [*sorted(METHODS), "buffer", "bench", *(f"export {format}" for format in FORMATS)]

    def make(self, name: str) -> Scenario:
        if name in METHODS:
            return of_method(name, self.root)
        if name == "buffer":
            return of_buffer(self.root)
        if name == "bench":
            return of_bench(self.root, jobs=2)
        exported = self.root / "quiet" / "datm"
        if not exported.exists():
            Case(exported).end(of_method("datm", self.root))
        return of_export(exported / "run" / "distilled", name.removeprefix("export "))

    def live_quietly(self) -> Iterator[dict[str, Any]]:
        """Once as it is; of a run again in another process, with all that looks on."""
        for name in self.names:
            scenario, case = self.make(name), Case(self.root / "quiet" / name.replace(" ", "-"))
            case.end(scenario)
            self.scenarios[name], self.quiet[name] = scenario, scenario.digest(case.folder)
            self.traces[name] = case.traces()
            same = None
            if name in METHODS or name == "bench":
                again = of_method(name, self.root, **WATCHED) if name in METHODS else of_bench(self.root, jobs=1)
                watched = Case(self.root / "watched" / name)
                watched.end(again)
                same = again.digest(watched.folder) == self.quiet[name]
                shutil.rmtree(watched.folder)
            yield {"quiet": name, "digest": self.quiet[name], "watched is the same": same}

    def places(self) -> dict[tuple[str, str], list[tuple[str, str, int]]]:
        """Every place and moment, with where to find it: scenario, process, event."""
        found: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
        for name, traces in self.traces.items():
            for process, events in traces.items():
                for number, event in enumerate(events):
                    for moment in event.moments:
                        found.setdefault((event.place, moment), []).append((name, process, number))
        return found

    def plan(self, sample: int | None) -> list[Plan]:
        """SIGKILL at every place, and then other signals and repeated kills, 200 at least; or a sample of both."""
        where, covering, others = self.places(), [], []
        for place in sorted(where, key=lambda place: rng.address(0, " ".join(place))):
            name, process, event = _draw(where[place], f"place {place}")
            covering.append(Plan(name, (Kill(process, event, place[1], signal.SIGKILL),)))
        for number in range(max(MOST - len(covering), OTHERS)):
            name = self.names[number % len(self.names)]
            process = _draw(sorted(self.traces[name]), f"process {number}")
            others.append(self._other(name, process, number))
        if sample is None:
            return [*covering, *others]
        few = sample // 3
        return [*covering[: sample - few], *others[:few]]

    def _other(self, name: str, process: str, number: int) -> Plan:
        events = self.traces[name][process]
        polite = number % 3 < 2
        last = len(events) - 1
        if polite:  # where it is still looked at
            looks = [k for k, event in enumerate(events) if event.place in (LOOK, STEP)]
            last = looks[-1] - 1 if looks else last
        first = int(rng.address(0, "kill", number) % (max(last, 0) + 1))
        kills = [
            Kill(
                process,
                first,
                _draw(events[first].moments, f"moment {number}"),
                POLITE[number % 3] if polite else signal.SIGKILL,
            )
        ]
        left = len(events) - 1 - first
        if not polite and left > 0:
            second = int(rng.address(0, "second", number) % left)
            kills.append(Kill(process, second, "before", signal.SIGKILL))
        return Plan(name, tuple(kills))

    def carry_out(self, plan: Plan, number: int) -> list[dict[str, Any]]:
        """Kill, go on, compare."""
        scenario, case = self.scenarios[plan.scenario], Case(self.root / f"kill-{number:03d}")
        told: list[dict[str, Any]] = []
        for kill in plan.kills:
            told.append(self._kill(scenario, case, kill))
        case.end(scenario)
        same = scenario.digest(case.folder) == self.quiet[plan.scenario]
        if same:
            shutil.rmtree(case.folder)
        return [line | {"same": same} for line in told]

    def _kill(self, scenario: Scenario, case: Case, kill: Kill) -> dict[str, Any]:
        target = int(kill.process.removeprefix("step")) if kill.process.startswith("step") else 0
        for step in scenario.steps[:target]:
            if command := step(case.folder):
                assert case.run(command, "before") == 0
        command = scenario.steps[target](case.folder)
        code = case.run(command, f"step{target}", kill)
        said = json.loads(case.said.read_text()) if case.said.exists() else {}
        if kill.process.startswith("step"):
            died = code == -kill.number or code == STOPPED.get(kill.number)
        else:  # a cell of a bench, which lives and says so
            died = code in (0, 1)  # 0: it had said all that it had to say
        line = {"scenario": scenario.name, "process": kill.process, "event": kill.event, "moment": kill.moment}
        line |= {
            "signal": signal.Signals(kill.number).name,
            "iteration": said.get("iteration"),
            "place": said.get("place"),
        }
        return line | {"ended": how_it_ended(code), "died": bool(said) and died}


class Races:
    """Two processes that want the same at about the same time."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.bench, self.run = harness.scenarios["bench"], harness.scenarios["datm"]

    def race(self, kind: str, number: int) -> dict[str, Any]:
        """`fine`: one worked, and the other waited or was refused with a reason; and nothing is lost."""
        case = Case(self.harness.root / f"race-{number:03d}")
        delay = rng.address(0, "race", number) % 400 / 1000
        fine = bool(getattr(self, f"_{kind.replace(' ', '_')}")(case, delay))
        line = {"race": kind, "delay": delay, "fine": fine}
        if fine:
            shutil.rmtree(case.folder)
        return line

    def both(self, case: Case, delay: float, one: Command, other: Command) -> tuple[list[int], str]:
        """Their return codes, sorted, and what both said."""
        case.kill = None
        waiting, go = os.pipe()
        pids, log = [], case.folder / f"both-{rng.address(0, str(one))}.log"
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def first(seconds: float) -> None:
            os.close(go)
            os.read(waiting, 1)
            time.sleep(seconds)

        for name, command, seconds in (("one", one, 0.0), ("other", other, delay)):
            pids.append(case.start(command, name, output, partial(first, seconds)))
        for descriptor in (waiting, go, output):
            os.close(descriptor)
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
        return codes, log.read_text()

    def same(self, case: Case, scenario: Scenario, name: str) -> bool:
        return scenario.digest(case.folder) == self.harness.quiet[name]

    def _run(self, case: Case, delay: float) -> bool:
        command = self.run.steps[0](case.folder)
        codes, said = self.both(case, delay, command, command)
        refused = "is in use by process" in said or "exists and is not empty" in said
        return codes == [0, 2] and refused and self.same(case, self.run, "datm")

    def _resume(self, case: Case, delay: float) -> bool:
        events = self.harness.traces["datm"]["step0"]
        middle = [number for number, event in enumerate(events) if event.place == STEP][2]
        case.run(self.run.steps[0](case.folder), "step0", Kill("step0", middle, "after", signal.SIGTERM))
        command = self.run.steps[0](case.folder)
        assert command[0] == "resume"
        codes, said = self.both(case, delay, command, command)
        fine = codes == [0, 0] or (codes == [0, 2] and "is in use by process" in said)  # who comes late finds it done
        return fine and self.same(case, self.run, "datm")

    def _buffer(self, case: Case, delay: float) -> bool:
        command = ["buffer", *self.run.steps[0](case.folder)[1:3]]
        codes, _ = self.both(case, delay, command, command)
        case.end(self.run)
        return codes == [0, 0] and self.same(case, self.run, "datm")

    def _bench(self, case: Case, delay: float) -> bool:
        command = self.bench.steps[0](case.folder)
        codes, said = self.both(case, delay, command, command)
        fine = codes == [0, 0] or (codes == [0, 2] and "is in use by process" in said)
        return fine and self.same(case, self.bench, "bench")

    def _bench_cache(self, case: Case, delay: float) -> bool:
        """In two folders, with one cache for their experts, teachers and evaluations."""
        command = self.bench.steps[0](case.folder)
        codes, _ = self.both(case, delay, command, [*command[:-1], str(case.folder / "other" / "bench")])
        same = self.same(case, self.bench, "bench")
        return codes == [0, 0] and same and self.bench.digest(case.folder / "other") == self.harness.quiet["bench"]

    def _eval(self, case: Case, delay: float) -> bool:
        """Of one set: both records are in its manifest."""
        artifact = case.folder / "distilled"
        shutil.copytree(self.harness.root / "quiet" / "datm" / "run" / "distilled", artifact)
        before = len(read_manifest(artifact).evaluations)
        codes, _ = self.both(case, delay / 10, ["eval", str(artifact)], ["eval", str(artifact)])
        return codes == [0, 0] and len(read_manifest(artifact).evaluations) == before + 2


def threads() -> int:
    """Of this process, but for the one that pyarrow's allocator sweeps up with, and starts again after a fork."""
    names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    return sum(not name.startswith("jemalloc") for name in names)


def _draw(choices: Sequence[Any], address: str) -> Any:
    return choices[rng.address(0, address) % len(choices)]


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, help="kills; default: all there are to try")
    parser.add_argument("--races", type=int, default=0, help="instead of kills")
    parser.add_argument("--scenario", action="append", default=[])
    given = parser.parse_args()
    harness = Harness(given.folder, ["datm", "bench"] if given.races else given.scenario)
    for line in harness.live_quietly():
        print(json.dumps(line), flush=True)
    for number in range(given.races):
        print(json.dumps(Races(harness).race(RACES[number % len(RACES)], number)), flush=True)
    if given.races:
        return
    print(json.dumps({"places": sorted(harness.places())}), flush=True)
    for number, plan in enumerate(harness.plan(given.sample)):
        for line in harness.carry_out(plan, number):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    command_line()
