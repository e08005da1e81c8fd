"""One run on two processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import steps
import torch
from problems import relative_error
from safetensors.torch import load_file

from condense import api
from condense.config import Layer, resolve
from condense.errors import ConfigError
from condense.methods import METHODS
from condense.provide import check_processes, settle_processes

HERE = Path(__file__).parent
RUN = ["--method", "mtt", "--ipc", "1", "--set", "network=convnet:width=4,depth=2", "num_experts=2", "expert_epochs=1"]
RUN += ["max_start_epoch=2", "iterations=9", "syn_steps=2", "experts_per_step=3", "checkpoint_every=4", "recipe=none"]
RUN += ["eval_repeats=1", "baselines=[]", "full_data=false"]


def environment():
    return os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}


def on_two(*arguments):
    """Two ranks of a Python program, as torchrun would start them, once both have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = environment() | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [child.communicate(timeout=600) for child in children]
    return [subprocess.CompletedProcess(c.args, c.returncode, *words) for c, words in zip(children, said, strict=True)]


@pytest.fixture(scope="module")
def shared_steps(tmp_path_factory):
    """Where two processes left the gradients of their first steps; and those of one process."""
    folder = tmp_path_factory.mktemp("steps")
    alone = {(name, dtype): steps.first_step(name, dtype, folder) for name, dtype in steps.RUNS}
    for child in on_two(str(HERE / "steps.py"), str(folder)):
        assert child.returncode == 0, child.stderr
    return folder, alone


@pytest.mark.parametrize(("name", "dtype"), steps.RUNS)
def test_two_processes_find_the_gradient_of_one(name, dtype, shared_steps):
    folder, alone = shared_steps
    found, expected = load_file(folder / f"{name}-{dtype}.safetensors"), alone[name, dtype]
    assert found.keys() == expected.keys() and "loss" in found and len(found) > 1
    for part in expected:
        assert relative_error(found[part], expected[part]) < {"fp32": 1e-6, "fp64": 1e-12}[dtype], part


def test_ranks_that_come_apart_are_found(shared_steps):
    """By the last bit of a number; all hear of it, and one of them is to say it."""
    for rank in range(2):
        words = (shared_steps[0] / f"disagreement-{rank}").read_text()
        assert words.startswith("0 after 3 iterations rank 1 of 2 is ")


@pytest.mark.slow
def test_what_is_killed_or_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """A rank is killed under torchrun, then another one alone is asked to stop, and the third try is left alone."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    whole, run = tmp_path / "whole", tmp_path / "run"
    for child in on_two("-m", "condense", "run", "--out", str(whole), *RUN):
        assert child.returncode == 0, child.stderr

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    killed = [str(HERE / "deadly.py"), "1", str(int(signal.SIGKILL)), "6", "run", "--out", str(run), *RUN]
    child = subprocess.run([sys.executable, *torchrun, *killed], env=environment(), capture_output=True, text=True)
    assert child.returncode != 0
    assert child.stderr.count("error: rank 1 of 2 is gone") == child.stderr.count("error: ") == 1
    assert checkpoints(run) == [4, 5]

    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 2 -m condense"):
        api.resume(run)

    stopped = on_two(str(HERE / "deadly.py"), "1", str(int(signal.SIGTERM)), "2", "resume", str(run))
    assert [child.returncode for child in stopped] == [75, 75]
    assert stopped[0].stderr.count("stopped by SIGTERM") == 1 and not stopped[1].stderr
    assert checkpoints(run) == [5, 7]

    resumed = on_two("-m", "condense", "resume", str(run), "--json")
    assert [child.returncode for child in resumed] == [0, 0], resumed
    assert not resumed[1].stdout and not resumed[1].stderr
    assert json.loads(resumed[0].stdout)["run"] == str(run)
    assert lines(run) == lines(whole)
    assert (run / "distilled" / "data.safetensors").read_bytes() == (
        whole / "distilled" / "data.safetensors"
    ).read_bytes()


def checkpoints(run):
    return sorted(int(path.stem) for path in (run / "checkpoints").iterdir())


def lines(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def resolved(method, **values):
    return resolve([Layer("test", {"method": method, "recipe": "none", "network": "convnet:width=4,depth=2"} | values)])


def test_a_method_says_what_its_processes_share():
    for name, cls in METHODS.items():
        assert bool(cls.Config.unit) == bool(cls.Config.model_fields["iterations"].default), name


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("mtt", {"processes": 2}, "by its expert segments .experts_per_step., whose number is 1. Start no more"),
        ("dm", {"processes": 11}, "by its classes, whose number is 10. "),
        (
            "sre2l",
            {"processes": 5, "ipc": 2, "class_batch": 5},
            "by its blocks of images .ipc; class_batch.*, whose number is 4. ",
        ),
        (
            "infer",
            {"processes": 5, "ipc": 2, "teachers": ("convnet:norm=batch",)},
            "by its compensators .ipc and teachers., whose number is 1. ",
        ),
        ("random", {"processes": 2}, "no iterations that they could share.*one that has: .*datadam.*mtt.*sre2l"),
    ],
)
def test_a_process_without_work_is_refused(method, values, words):
    with pytest.raises(ConfigError, match=words):
        api.prepare(resolved(method, **values))


def test_the_number_of_processes_is_that_of_torchrun():
    assert settle_processes(resolved("dm"), 3).run.processes == 3
    assert settle_processes(resolved("dm"), 3).origins["processes"] == "torchrun"
    assert settle_processes(resolved("dm", processes=3), 3).run.processes == 3
    with pytest.raises(ConfigError, match=r"processes = 3, .* one of 2\. Start the command with torchrun"):
        settle_processes(resolved("dm", processes=3), 2)
    with pytest.raises(ConfigError, match="without torchrun"):
        settle_processes(resolved("dm", processes=1), 2)


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    r = resolved("dm").run
    with pytest.raises(ConfigError, match="each of 2 processes takes one: give cuda"):
        check_processes(r.model_copy(update={"device": "cuda:1", "processes": 2}), 2)
    for name, value in {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert r.model_copy(update={"device": "cuda"}).torch_device == torch.device("cuda:1")
    assert r.model_copy(update={"device": "cpu"}).torch_device == torch.device("cpu")
