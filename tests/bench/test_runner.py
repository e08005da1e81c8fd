"""Running a bench: with children that only pretend, and once, slowly, with real ones that are killed."""

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from fabricated_bench import grid_text

from condense.bench import write_report
from condense.bench.folder import BenchFolder
from condense.bench.runner import run_bench
from condense.errors import ConfigError, RunError
from condense.locks import lock
from condense.machine import cores
from condense.runs import Stopped
from condense.scale import Local, local

TINY = {"methods": ["dm"], "ipc": [1], "seeds": [0, 1], "networks": ["mlp"], "baselines": ["random"]}
SET = "[set]\nrecipe = 'none'\ndsa = 'none'\n"
NAMES = [f"digits-{label}-ipc1-seed{seed}" for label in ("random", "dm") for seed in (0, 1)]

# What a child does: as `condense run` and `condense resume` it locks the folder and writes config and result; what
# `story` says beside it by the cell's name happens in between.
CHILD = """
import fcntl, json, os, signal, sys, time
from pathlib import Path

config, run = map(Path, sys.argv[1:])
run.mkdir(exist_ok=True)
lock = (run / "lock").open("a")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
resumed = (run / "config.toml").exists()
if not resumed:
    settled = 'compile = "off"\\n' + ("micro_batch = 8\\n" if "memory_limit = " in config.read_text() else "")
    (run / "config.toml").write_text(config.read_text() + settled)
with (run.parent.parent / "calls.jsonl").open("a") as calls:
    call = {"cell": run.name, "resumed": resumed, "threads": os.environ["OMP_NUM_THREADS"], "began": time.time()}
    story = json.loads((run.parent.parent / "story.json").read_text()).get(run.name, "")
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(75))
    signal.signal(signal.SIGINT, lambda *_: stopped.append(130))
    if story == "wait":
        (run / "waits").touch()
        while len(stopped) == 0:
            time.sleep(0.01)
    if story == "stubborn":
        (run / "waits").touch()
        while len(stopped) < 2:
            time.sleep(0.01)
    if story.startswith("meet "):
        (run / "waits").touch()
        while not (run.parent / story.removeprefix("meet ") / "waits").exists():
            time.sleep(0.01)
        time.sleep(0.3)
    calls.write(json.dumps(call | {"ended": time.time(), "signals": stopped}) + "\\n")
if stopped:
    print(f"stopped by signal, exit {stopped[-1]}")
    sys.exit(stopped[-1])
if story == "fail":
    print("working hard\\n\\nerror: it did not work")
    sys.exit(3)
if story == "die":
    print("good-bye", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
(run / "result.json").write_text("{}")
"""


def child(unit):
    """The command of a pretending child."""
    return [sys.executable, "-c", CHILD, f"{unit.folder}.toml", str(unit.folder)]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A folder for a bench with pretending children, and what they did."""
    folder = BenchFolder(tmp_path / "bench")
    folder.path.mkdir()
    monkeypatch.setattr(local, "POLL", 0.01)
    monkeypatch.setattr(local, "command", child)
    return folder


def grid(path, text=""):
    """A grid of four cells: what runs is decided by its text alone."""
    (path / "grid.toml").write_text(grid_text(**TINY).partition("[set]")[0] + SET + text, encoding="utf-8")
    return path / "grid.toml"


def run(bench, jobs=1, text="", **story):
    """Run it with a story for each cell by the last part of its name, as dm_1."""
    names = {f"digits-{key[:-2]}-ipc1-seed{key[-1]}": what for key, what in story.items()}
    (bench.path / "story.json").write_text(json.dumps(names), encoding="utf-8")
    return run_bench(grid(bench.path.parent, text), bench.path, Local(jobs))


def calls(bench):
    path = bench.path / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_cell_is_run_once_in_order(bench, caplog):
    with caplog.at_level(logging.INFO, "condense"):
        assert run(bench) == []
    assert [call["cell"] for call in calls(bench)] == NAMES
    assert all(bench.finished(name) for name in NAMES)
    said = [re.sub(r"\d:\d\d:\d\d", "T", record.getMessage()) for record in caplog.records]
    assert said == [
        *(f"{i}/4  {name}  done in T  about T left" for i, name in enumerate(NAMES[:3], 1)),
        f"4/4  {NAMES[3]}  done in T",
    ]
    assert run(bench) == [] and len(calls(bench)) == 4


def test_two_jobs_are_two_at_a_time_and_share_the_cores(bench, monkeypatch):
    """The first two end only when they have met, and so do the others."""
    monkeypatch.setattr(local, "cores", lambda: 6)
    pairs = {"random_0": NAMES[1], "random_1": NAMES[0], "dm_0": NAMES[3], "dm_1": NAMES[2]}
    assert run(bench, jobs=2, **{cell: f"meet {other}" for cell, other in pairs.items()}) == []
    spans = sorted((call["began"], call["ended"]) for call in calls(bench))
    assert max(sum(a <= began < b for a, b in spans) for began, _ in spans) == 2
    assert {call["threads"] for call in calls(bench)} == {"3"}


def test_a_later_command_keeps_the_threads_of_the_first(bench, monkeypatch, caplog):
    """The bits depend on them."""
    monkeypatch.setattr(local, "cores", lambda: 6)
    assert run(bench, jobs=2, dm_1="fail") == [NAMES[3]]
    with caplog.at_level(logging.INFO, "condense"):
        assert run(bench, jobs=3) == []
    assert [call["threads"] for call in calls(bench)] == ["3"] * 5
    assert "3 jobs of 3 threads, as this bench began, on 6 cores" in caplog.text
    record = bench.read_record()
    assert (record.threads, record.jobs) == (3, 3)
    assert record.command == f"condense bench {bench.path.parent}/grid.toml --out {bench.path} --jobs 3"
    assert len(record.machines) == 1 and record.machines[0]["cores"] == str(cores())


def test_a_grid_can_say_how_many_threads(bench, monkeypatch):
    """So that the bits do not depend on the number of jobs; and not another number than the cells had."""
    monkeypatch.setattr(local, "cores", lambda: 6)
    (bench.path / "story.json").write_text("{}", encoding="utf-8")
    text = grid(bench.path.parent).read_text()
    for jobs in (1, 2):
        (bench.path.parent / "grid.toml").write_text(f"threads = 5\n{text}", encoding="utf-8")
        assert run_bench(bench.path.parent / "grid.toml", bench.path, Local(jobs)) == []
    assert [call["threads"] for call in calls(bench)] == ["5"] * 4
    (bench.path.parent / "grid.toml").write_text(f"threads = 4\n{text}", encoding="utf-8")
    with pytest.raises(ConfigError, match="began with 5 threads, and the grid says threads = 4"):
        run_bench(bench.path.parent / "grid.toml", bench.path)


def test_a_failed_cell_is_recorded_the_rest_goes_on_and_it_is_tried_again(bench, caplog):
    with caplog.at_level(logging.INFO, "condense"):
        assert run(bench, random_1="fail", dm_0="die") == [NAMES[1], NAMES[2]]
    assert bench.error(NAMES[1]).read_text() == "exit code 3\nworking hard\nerror: it did not work"
    assert bench.error(NAMES[2]).read_text() == "killed by SIGKILL\ngood-bye"
    assert f"2/4  {NAMES[1]}  FAILED: error: it did not work" in caplog.text
    assert run(bench, random_1="fail") == [NAMES[1]]
    assert bench.error(NAMES[1]).read_text().count("did not work") == 1  # this time's words alone
    assert run(bench) == []
    assert not bench.error(NAMES[1]).exists()
    again = [(call["cell"], call["resumed"]) for call in calls(bench)[4:]]
    assert again == [(NAMES[1], True), (NAMES[2], True), (NAMES[1], True)]


def interrupt(bench, marks, numbers):
    """From a process of its own: each signal once the cells say that they wait."""
    code = f"""
import os, time
from pathlib import Path
for mark in {[str(bench.run(mark) / "waits") for mark in marks]!r}:
    while not Path(mark).exists():
        time.sleep(0.01)
for number in {[int(number) for number in numbers]!r}:
    time.sleep(0.3)
    os.kill({os.getpid()}, number)
"""
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_passed_on_and_the_same_command_continues(bench, number):
    with interrupt(bench, NAMES[1:3], [number]), pytest.raises(Stopped) as stopped:
        run(bench, jobs=2, random_1="wait", dm_0="wait")
    assert stopped.value.number == number
    code = 75 if number == signal.SIGTERM else 130
    assert sorted((call["cell"], call["signals"]) for call in calls(bench)[1:]) == [
        (NAMES[2], [code]),
        (NAMES[1], [code]),
    ]
    assert not list(bench.cells.glob("*.error"))  # it was asked for
    assert run(bench, jobs=2) == []
    assert {(call["cell"], call["resumed"]) for call in calls(bench)[3:]} == {
        (NAMES[1], True),
        (NAMES[2], True),
        (NAMES[3], False),
    }


def test_a_second_interrupt_is_passed_on_as_well(bench):
    with interrupt(bench, NAMES[:1], [signal.SIGINT, signal.SIGINT]), pytest.raises(KeyboardInterrupt):
        run(bench, random_0="stubborn")
    assert [call["signals"] for call in calls(bench)] == [[130, 130]]


BENCH = """
import sys
from pathlib import Path
sys.path.append(sys.argv[3])
from condense.bench import run_bench
from condense.scale import local
from test_runner import child
local.command = child
run_bench(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_the_children_of_a_killed_bench_are_stopped_and_waited_for(bench):
    """They get SIGTERM from the system; a bench that continues leaves a folder alone while somebody is in it."""
    (bench.path / "story.json").write_text(json.dumps({NAMES[0]: "wait"}), encoding="utf-8")
    arguments = [str(grid(bench.path.parent)), str(bench.path), str(Path(__file__).parent)]
    with subprocess.Popen([sys.executable, "-c", BENCH, *arguments]) as process:
        while not (bench.run(NAMES[0]) / "waits").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    while not calls(bench):
        time.sleep(0.01)
    assert set(calls(bench)[0]["signals"]) == {75}  # the system may send it more than once
    assert run(bench) == []
    assert [(call["cell"], call["resumed"]) for call in calls(bench)[1:3]] == [(NAMES[0], True), (NAMES[1], False)]


def test_a_cell_with_somebody_in_it_is_taken_last(bench, monkeypatch, caplog):
    bench.run(NAMES[0]).mkdir(parents=True)
    held = lock(bench.run(NAMES[0]) / "lock")
    looks, sleep, waiting = count(), time.sleep, "waiting for processes of an earlier command"

    def leave(seconds):
        """Only after some looks at a lock that the bench says it waits for, however long the other cells take."""
        sleep(seconds)
        if waiting in caplog.text and next(looks) > 5:
            held.close()

    monkeypatch.setattr(local.time, "sleep", leave)
    with caplog.at_level(logging.INFO, "condense"):
        assert run(bench) == []
    assert [call["cell"] for call in calls(bench)] == [*NAMES[1:], NAMES[0]]
    assert caplog.text.count(waiting) == 1


def test_two_benches_cannot_be_in_one_folder(bench):
    with lock(bench.path / "lock"), pytest.raises(RunError, match="is in use by process"):
        run(bench)
    assert calls(bench) == []


# another grid


def test_a_grid_with_more_cells_is_added(bench):
    run(bench)
    more = grid_text(**TINY | {"seeds": [0, 1, 2]}).partition("[set]")[0] + SET
    (bench.path.parent / "more.toml").write_text(more, encoding="utf-8")
    assert run_bench(bench.path.parent / "more.toml", bench.path) == []
    assert [call["cell"] for call in calls(bench)[4:]] == ["digits-random-ipc1-seed2", "digits-dm-ipc1-seed2"]
    assert bench.grid.read_text() == more
    assert run_bench(bench.grid, bench.path) == [] and len(calls(bench)) == 6


def test_a_grid_that_contradicts_cells_is_refused_and_changes_nothing(bench):
    run(bench)
    before = {path: path.read_bytes() for path in bench.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as raised:
        run(bench, text="[method.dm]\nlr_img = 7.0\n[method.random]\n")
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{NAMES[2]}, {NAMES[3]}: lr_img = ") and lines[0].endswith("there, 7.0 in the grid")
    assert len(lines) == 2 and "choose another --out" in lines[1]
    after = {path: path.read_bytes() for path in bench.path.rglob("*") if path.is_file()}
    assert after == before


def test_a_cell_whose_micro_batch_came_of_its_memory_limit_fits_the_grid(bench):
    for _ in range(2):
        assert run(bench, text="memory_limit = 1.0\n") == []
    assert len(calls(bench)) == 4 and "micro_batch = 8" in (bench.run(NAMES[0]) / "config.toml").read_text()
    with pytest.raises(ConfigError, match="micro_batch = 8 there, 9 in the grid"):
        run(bench, text="memory_limit = 1.0\nmicro_batch = 9\n")
    with pytest.raises(ConfigError, match="micro_batch = 8 there, None in the grid"):
        run(bench)


def test_a_cell_that_never_began_takes_the_new_keys(bench):
    run(bench)
    for name in NAMES[2:]:
        shutil.rmtree(bench.run(name))
    assert run(bench, text="[method.dm]\nlr_img = 7.0\n") == []
    assert [call["cell"] for call in calls(bench)[4:]] == NAMES[2:]
    assert "lr_img = 7.0  # [method.dm]" in bench.config(NAMES[3]).read_text()


@pytest.mark.parametrize("jobs", [0, -1])
def test_a_wrong_number_of_jobs(bench, jobs):
    with pytest.raises(ConfigError, match="--jobs"):
        run(bench, jobs=jobs)
    assert not bench.cells.exists()


def test_a_damaged_record_is_refused(bench):
    (bench.path / "bench.json").write_text("{")
    with pytest.raises(RunError, match=r"bench\.json is damaged"):
        run(bench)


# real cells

REAL = """
methods = ["dm", "mtt"]
ipc = [1]
datasets = ["digits"]
seeds = [0]
networks = ["mlp"]
protocol = "quick"
baselines = ["random"]
[set]
network = "convnet:width=4"
eval_repeats = 1
checkpoint_every = 5
[method.dm]
iterations = 30
[method.mtt]
iterations = 10
num_experts = 2
expert_epochs = 1
max_start_epoch = 1
syn_steps = 2
"""


@pytest.mark.slow
def test_a_bench_that_is_killed_again_and_again_ends_with_the_same_tables(tmp_path, monkeypatch):
    """SIGKILL for the bench at three random moments; nothing is sent to its children, which are at work."""
    (tmp_path / "grid.toml").write_text(REAL, encoding="utf-8")

    def command(name):
        monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / f"{name}-cache"))
        arguments = ["bench", str(tmp_path / "grid.toml"), "--out", str(tmp_path / name), "--jobs", "2"]
        return [sys.executable, "-m", "condense", *arguments]

    began = time.monotonic()
    subprocess.run(command("whole"), check=True, capture_output=True)
    taken = time.monotonic() - began

    draws = random.Random(7)
    for _ in range(3):
        with subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            time.sleep(taken * draws.uniform(0.2, 0.7))
            process.kill()
    subprocess.run(command("killed"), check=True, capture_output=True)
    for name in ("accuracy.csv", "accuracy.md", "values.csv", "storage.csv"):
        files = [tmp_path / bench / "report" / name for bench in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "cells").rglob("*")}
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert write_report(tmp_path / "killed").exists()
