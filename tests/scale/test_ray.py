"""Units on a Ray cluster of this machine: the same files, whatever happens to its workers."""

import hashlib
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_work import BUFFER, die, fail, greet, result, run, unit, wait

from condense import api
from condense.bench import run_bench, write_report
from condense.config import Layer, resolve
from condense.errors import ConfigError
from condense.runs import StopFlag, Stopped
from condense.scale import Local, Ray, cluster

# Ray reads these when it is imported: a driver of the same address, and a token.
os.environ.update(cluster.HERE | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
pytest.importorskip("ray")
import ray_cluster

pytestmark = pytest.mark.slow

GRID = """
methods = ["dm"]
ipc = [1]
datasets = ["digits"]
seeds = {seeds}
networks = ["mlp"]
protocol = "quick"
baselines = []
[set]
network = "convnet:width=4"
eval_repeats = 1
[method.dm]
iterations = 5
"""
TABLES = ["accuracy.csv", "accuracy.md", "values.csv", "storage.csv"]


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """The address of a cluster of two cores, and the process that started it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("CONDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        command = [sys.executable, str(Path(__file__).parent / "ray_cluster.py")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            address = process.stdout.readline().strip()
            yield SimpleNamespace(address=address, process=process.pid)
            process.stdin.close()


def test_units_leave_what_they_leave_on_this_machine(tmp_path, ray, monkeypatch, caplog):
    """Files, failures with their reasons; a unit whose worker is lost is done again, but not for ever."""
    monkeypatch.setattr(cluster, "RETRIES", 1)
    loads = []
    shared = lambda: loads.append(1) or "what all read"  # noqa: E731
    tries = {name: tmp_path / f"tries-{name}" for name in ("broken", "lost", "hopeless")}
    good = unit(tmp_path, "good", greet, shared, text="a text")
    broken = unit(tmp_path, "broken", fail, shared, tries=str(tries["broken"]))
    lost = unit(tmp_path, "lost", die, shared, tries=str(tries["lost"]), times=1)
    hopeless = unit(tmp_path, "hopeless", die, shared, tries=str(tries["hopeless"]), times=9)
    good.folder.mkdir()
    (good.folder / "old").write_text("of an attempt that was not finished")
    with caplog.at_level("INFO", "condense"), Ray(ray.address) as executor:
        assert (executor.jobs, executor.threads) == (2, 1)
        steps, ends = run(executor, [good, broken, lost, hopeless], threads=1)
    assert ends["good"] is ends["lost"] is None and loads == [1]
    assert (result(good)["text"], result(lost)["text"]) == ("a text", "at last")
    assert (result(good)["shared"], result(good)["threads"]) == ("what all read", "1")
    assert sorted(path.name for path in good.folder.rglob("*")) == ["below", "file", "lock", "result.json"]
    assert steps["good"] == 2 and steps["hopeless"] == 0
    assert ends["broken"].splitlines()[-1] == "RuntimeError: nothing works in broken"
    assert "Traceback" in broken.log.read_text() and broken.error.read_text() == ends["broken"]
    assert ends["hopeless"].startswith("its worker was lost (WorkerCrashedError), 2 times")
    assert {name: len(path.read_text()) for name, path in tries.items()} == {"broken": 1, "lost": 2, "hopeless": 2}
    assert "lost: its worker was lost (WorkerCrashedError); again, 1 of 1" in caplog.text


def test_a_stop_leaves_no_worker_at_work(tmp_path, ray):
    stop, mark = StopFlag(), tmp_path / "mark"

    def press():
        while not mark.exists() or not mark.read_text():
            time.sleep(0.05)
        stop.requested = signal.SIGINT

    threading.Thread(target=press, daemon=True).start()
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), Ray(ray.address) as executor:
        assert signal.getsignal(signal.SIGTERM) is handler
        run(executor, [unit(tmp_path, "u", wait, mark=str(mark))], stop=stop)
    deadline = time.monotonic() + 60
    while ray_cluster.workers(ray.process) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ray_cluster.workers(ray.process) and not (tmp_path / "u").exists()


def trajectories(folder, executor):
    config = resolve([Layer("test", BUFFER | {"buffer": folder, "num_experts": 1})])
    made = api.train_buffer(config, executor) / "trajectories.bin"
    return hashlib.sha256(made.read_bytes()).hexdigest()


def test_experts_are_those_of_this_machine(tmp_path, ray):
    here = trajectories(tmp_path / "here", Local(os.cpu_count()))
    assert trajectories(tmp_path / "there", Ray(ray.address, jobs=os.cpu_count())) == here


def tables(grid, out, executor):
    """The tables of a bench, and the images and labels of its sets, as hashes."""
    assert run_bench(grid, out, executor) == []
    files = [write_report(out).parent / name for name in TABLES] + sorted(
        out.glob("cells/*/distilled/data.safetensors")
    )
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def kill(process, times, pause, over):
    """SIGKILL for workers that are at a unit, each after a random time."""
    draws = random.Random(3)
    while times and not over.wait(draws.uniform(0, pause)):
        if victims := ray_cluster.workers(process):
            os.kill(draws.choice(victims), signal.SIGKILL)
            times -= 1
    over.killed = not times


def killed_and_whole(tmp_path, ray, *, seeds, times, pause):
    grid, over = tmp_path / "grid.toml", threading.Event()
    grid.write_text(GRID.format(seeds=list(range(seeds))), encoding="utf-8")
    killer = threading.Thread(target=kill, args=(ray.process, times, pause, over))
    killer.start()
    try:
        there = tables(grid, tmp_path / "there", Ray(ray.address))
    finally:
        over.set()
        killer.join()
    assert over.killed and there == tables(grid, tmp_path / "here", Local(os.cpu_count()))


def test_a_bench_ends_with_the_same_tables_though_a_worker_is_killed(tmp_path, ray):
    killed_and_whole(tmp_path, ray, seeds=1, times=1, pause=1)


def test_a_bench_ends_with_the_same_tables_though_ten_workers_are_killed(tmp_path, ray):
    killed_and_whole(tmp_path, ray, seeds=10, times=10, pause=6)


def test_what_a_cluster_has_not_is_refused_before_anything_is_written(tmp_path, ray):
    with pytest.raises(ConfigError, match="no node of this Ray cluster has more than 0 GPUs"):
        trajectories(tmp_path / "store", Ray(ray.address, gpus=0.5))
    with pytest.raises(ConfigError, match=r"units of 3 threads: .* more than 2 CPUs"), Ray(ray.address) as executor:
        run(executor, [], threads=3)
    for wrong in (0.0, 1.5, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="--gpus-per-unit"):
            Ray(ray.address, gpus=wrong)
    assert not (tmp_path / "store" / "trajectories.bin").exists()


def test_a_cluster_that_is_started_for_a_command_listens_on_this_machine_alone():
    with Ray(jobs=1):
        import ray

        assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert not ray.is_initialized()
