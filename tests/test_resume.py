"""The same command gives the same bytes: watched or not, in a new process, or where it goes on elsewhere.

That kills change nothing either is shown in tests/kill.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from condense import api
from condense.artifact import read_manifest
from condense.errors import RunError
from condense.methods.ftd import FTD
from condense.runs import Stopped
from condense.runs.config_file import to_toml

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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))


def command(*words, **environment):
    """`condense` in a new process."""
    ended = subprocess.run(
        [sys.executable, "-m", "condense", *words], env=os.environ | environment, capture_output=True, timeout=600
    )
    return ended.returncode, ended.stderr.decode()


def test_a_new_process_gives_the_same_bytes_whatever_its_hashes(uninterrupted, tmp_path):
    given = {"method": "ftd", "ipc": 1} | SETTINGS
    (tmp_path / "run.toml").write_text(to_toml(given, dict.fromkeys(given, "test")))
    words = ["run", "--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")]
    code, said = command(*words, PYTHONHASHSEED="12345", OMP_NUM_THREADS=str(torch.get_num_threads()))
    assert code == 0, said
    assert artifact_sha256(tmp_path / "run") == artifact_sha256(uninterrupted)
    assert lines(tmp_path / "run") == lines(uninterrupted)


class TestElsewhere:
    """A run that is stopped here and goes on where other bits may come out."""

    @pytest.fixture
    def begun(self, tmp_path, monkeypatch):
        """Stopped after two iterations; with one thread more than there are when it goes on."""
        step = FTD.step

        def stopping(condenser, state, problem, iteration):
            if iteration == 1:
                signal.raise_signal(signal.SIGTERM)
            return step(condenser, state, problem, iteration)

        with monkeypatch.context() as patch:
            patch.setattr(FTD, "step", stopping)
            patch.setattr(torch, "get_num_threads", lambda: 99)
            with pytest.raises(Stopped):
                api.distill("ftd", 1, out=tmp_path / "run", **SETTINGS)
        return tmp_path / "run"

    def test_it_is_refused_and_nothing_is_touched(self, begun):
        before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file() and path.name != "lock"}
        here = torch.get_num_threads()
        with pytest.raises(RunError, match=rf"threads was 99, and is {here} here.*OMP_NUM_THREADS.*--elsewhere"):
            api.resume(begun)
        assert {path: path.read_bytes() for path in before} == before

    def test_it_is_marked_in_the_set_if_it_is_asked_for(self, begun):
        artifact = api.resume(begun, elsewhere=True).artifact
        parts = read_manifest(artifact).numerics
        assert [part["threads"] for part in parts] == ["99", str(torch.get_num_threads())]
        assert parts[0] | {"threads": ""} == parts[1] | {"threads": ""}
        assert api.resume(begun).artifact == artifact, "a finished run is reported anywhere"

    def test_other_instructions_are_another_place(self, begun):
        (held,) = json.loads((begun / "numerics.json").read_text())
        held = held | {"threads": str(torch.get_num_threads())}
        (begun / "numerics.json").write_text(json.dumps([held | {"capability": "SSE"}]))
        with pytest.raises(RunError, match="capability was SSE"):
            api.resume(begun)
        (begun / "numerics.json").write_text(json.dumps([held | {"torch": "1.0 (build 0)"}]))
        with pytest.raises(RunError, match=r"torch was 1.0 \(build 0\), and is"):
            api.resume(begun)

    @pytest.mark.parametrize("content", ["{", "[1]", "7"])
    def test_a_damaged_record_is_refused(self, begun, content):
        (begun / "numerics.json").write_text(content)
        with pytest.raises(RunError, match=r"numerics\.json is damaged"):
            api.resume(begun)

    def test_a_run_of_an_earlier_version_goes_on(self, begun):
        (begun / "numerics.json").unlink()
        assert len(read_manifest(api.resume(begun).artifact).numerics) == 1


@pytest.mark.parametrize("change", [{"checkpoint_every": 1}, {"eval_every": 2}, {"tracker": ("tensorboard",)}])
def test_watching_a_run_does_not_change_it(change, uninterrupted, tmp_path):
    """How often it is saved or evaluated, and who looks on, is nothing to the result."""
    run = api.distill("ftd", 1, out=tmp_path / "run", **SETTINGS | change).run
    assert artifact_sha256(run) == artifact_sha256(uninterrupted)


def test_the_seed_changes_it(uninterrupted, tmp_path):
    run = api.distill("ftd", 1, out=tmp_path / "run", **SETTINGS | {"seed": 4}).run
    assert artifact_sha256(run) != artifact_sha256(uninterrupted)


@pytest.mark.slow
def test_a_compiled_run_is_the_same_bytes_after_a_kill(tmp_path):
    settings = SETTINGS | {"compile": "on"}
    whole = api.distill("ftd", 1, out=tmp_path / "whole", **settings).run
    child = [sys.executable, "-c", KILLED, str(tmp_path / "run"), json.dumps(settings)]
    ended = subprocess.run(child, env=os.environ, capture_output=True, timeout=600)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert artifact_sha256(api.resume(tmp_path / "run").run) == artifact_sha256(whole)
    assert lines(tmp_path / "run") == lines(whole)


KILLED = """
import json, os, signal, sys
from condense import api
from condense.methods.ftd import FTD

step = FTD.step

def deadly(condenser, state, problem, iteration):
    if iteration == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(condenser, state, problem, iteration)

FTD.step = deadly
api.distill("ftd", 1, out=sys.argv[1], **json.loads(sys.argv[2]))
"""


def test_a_run_ends_normally_where_wandb_cannot_be_reached(uninterrupted, tmp_path, monkeypatch, caplog):
    """At most one warning, and the same bytes."""
    pytest.importorskip("wandb")
    unreachable = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    unreachable |= {"WANDB_INIT_TIMEOUT": "3", "WANDB_SILENT": "true", "WANDB_X_SERVICE_WAIT": "300"}
    unreachable |= {f"WANDB_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    for name, value in unreachable.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level("WARNING", "condense"):
        run = api.distill("ftd", 1, out=tmp_path / "run", **SETTINGS | {"tracker": ("wandb",)}).run
    assert artifact_sha256(run) == artifact_sha256(uninterrupted)
    assert sum("tracker wandb failed" in record.getMessage() for record in caplog.records) <= 1
