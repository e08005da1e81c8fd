"""A run that is killed anywhere, and continued, gives the same bytes as one that was not."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from condense import api

SETTINGS = {
    "network": "convnet:width=4,depth=2",
    "num_experts": 2,
    "max_start_epoch": 2,
    "expert_epochs": 1,
    "iterations": 7,
    "syn_steps": 2,
    "checkpoint_every": 3,
    "eval_repeats": 1,
    "protocol": "quick",
    "baselines": (),
    "full_data": False,
    "seed": 3,
}

# Where the child dies: at which call of what.
POINTS = {
    "while an expert trains": ("condense.experts.train.gsam_direction", 30),
    "between two checkpoints": ("condense.methods.ftd.FTD.step", 5),
    "while a checkpoint is written": ("condense.runs.checkpoint.save_file", 2),
    "while the artifact is written": ("condense.artifact.save.write_atomic", 2),
    "while the set is evaluated": ("condense.evaluation.train.train_network", 1),
}

CHILD = """
import json, os, pkgutil, signal, sys
from condense import api

target, call, out, settings = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
owner, _, name = target.rpartition(".")
owner = pkgutil.resolve_name(owner)
original, calls = getattr(owner, name), 0

def deadly(*arguments, **named):
    global calls
    calls += 1
    if calls == call:
        if name == "save_file":  # half a file is there already
            with open(arguments[1], "wb") as file:
                file.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)

setattr(owner, name, deadly)
api.distill("ftd", 1, out=out, **settings)
"""


def artifact_sha256(run: Path) -> str:
    return hashlib.sha256((run / "distilled" / "data.safetensors").read_bytes()).hexdigest()


def lines(run: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDENSE_CACHE", str(folder / "cache"))
        return api.distill("ftd", 1, out=folder / "run", **SETTINGS).run


@pytest.mark.parametrize("point", POINTS)
def test_sigkill_and_resume_give_the_same_bytes(point, uninterrupted, tmp_path, monkeypatch):
    target, call = POINTS[point]
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    arguments = [target, str(call), str(tmp_path / "run"), json.dumps(SETTINGS)]
    child = subprocess.run([sys.executable, "-c", CHILD, *arguments], env=os.environ, capture_output=True, timeout=300)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    result = api.resume(tmp_path / "run")
    assert artifact_sha256(result.run) == artifact_sha256(uninterrupted)
    assert lines(result.run) == lines(uninterrupted)
    assert len(lines(result.run)) == SETTINGS["iterations"]
    assert [e.values for e in result.evaluations] == [e.values for e in api.resume(uninterrupted).evaluations]


@pytest.mark.parametrize("change", [{"checkpoint_every": 1}, {"eval_every": 2}, {"tracker": ("tensorboard",)}])
def test_watching_a_run_does_not_change_it(change, uninterrupted, tmp_path, monkeypatch):
    """How often it is saved or evaluated, and who looks on, is nothing to the result."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    run = api.distill("ftd", 1, out=tmp_path / "run", **SETTINGS | change).run
    assert artifact_sha256(run) == artifact_sha256(uninterrupted)


def test_the_seed_changes_it(uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    run = api.distill("ftd", 1, out=tmp_path / "run", **SETTINGS | {"seed": 4}).run
    assert artifact_sha256(run) != artifact_sha256(uninterrupted)


@pytest.mark.slow
def test_a_compiled_run_is_the_same_bytes_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    settings = SETTINGS | {"compile": "on"}
    whole = api.distill("ftd", 1, out=tmp_path / "whole", **settings).run
    arguments = ["condense.methods.ftd.FTD.step", "5", str(tmp_path / "run"), json.dumps(settings)]
    child = subprocess.run([sys.executable, "-c", CHILD, *arguments], env=os.environ, capture_output=True, timeout=600)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert artifact_sha256(api.resume(tmp_path / "run").run) == artifact_sha256(whole)
    assert lines(tmp_path / "run") == lines(whole)
