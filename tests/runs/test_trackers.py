import importlib.util
import logging
import random
import signal
import sys
from importlib.machinery import ModuleSpec

import pytest
import torch

from condense.errors import ConfigError
from condense.runs import TRACKERS, Trackers, create_trackers


class Recorder:
    def __init__(self):
        self.calls = []

    def start(self, config):
        self.calls.append(("start", config))

    def log(self, iteration, metrics):
        self.calls.append(("log", iteration, metrics))

    def finish(self, summary):
        self.calls.append(("finish", summary))


def failing(verb):
    """A recorder that fails in `verb`, after it has tampered with what it was given."""
    recorder = Recorder()

    def fail(*arguments):
        recorder.calls.append((verb,))
        arguments[-1].clear()
        raise ConnectionError("service is down")

    setattr(recorder, verb, fail)
    return recorder


EVERYTHING = [("start", {"ipc": 1}), ("log", 0, {"loss": 2.0}), ("log", 1, {"loss": 2.0}), ("finish", {"mean": 0.5})]


def drive(trackers):
    metrics = {"loss": 2.0}
    trackers.start({"ipc": 1})
    trackers.log(0, metrics)
    trackers.log(1, metrics)
    trackers.finish({"mean": 0.5})
    return metrics


@pytest.mark.parametrize("verb", ["start", "log", "finish"])
def test_a_failing_tracker_costs_one_warning_and_itself(verb, caplog):
    bad, good = failing(verb), Recorder()
    with caplog.at_level(logging.WARNING, "condense"):
        metrics = drive(Trackers({"bad": bad, "good": good}))
    assert good.calls == EVERYTHING
    assert metrics == {"loss": 2.0}
    assert bad.calls[-1] == (verb,), "it is not called again"
    assert [record.getMessage() for record in caplog.records] == [
        "tracker bad failed and is off for the rest of this run: ConnectionError('service is down')"
    ]


def test_an_interrupt_is_not_a_failure():
    def interrupted(_):
        raise KeyboardInterrupt

    tracker = Recorder()
    tracker.start = interrupted
    with pytest.raises(KeyboardInterrupt):
        drive(Trackers({"a": tracker}))


def test_unknown_name(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown tracker 'wandbb'. Did you mean 'wandb'"):
        create_trackers(["wandbb"], tmp_path)


@pytest.mark.parametrize("name", sorted(TRACKERS))
@pytest.mark.parametrize("spec", [None, ModuleSpec("a folder without __init__.py", None)])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, name, spec):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(ConfigError, match=rf"pip install 'condense-dd\[{name}\]'"):
        create_trackers([name], tmp_path)


def test_tensorboard_writes_events_that_tensorboard_reads(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drive(create_trackers(["tensorboard"], tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 2.0), (1, 2.0)]
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert '"ipc": 1' in texts["config/text_summary"]
    assert '"mean": 0.5' in texts["summary/text_summary"]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_X_SERVICE_WAIT", "300")  # seconds for its service to start: machines may be busy
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


@pytest.mark.usefixtures("offline")
def test_wandb_offline_stays_in_the_run_folder_and_changes_nothing_else(tmp_path, capfd, caplog):
    def surroundings():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return handlers, torch.get_rng_state().tolist(), random.getstate(), sys.stdout, sys.stderr

    before = surroundings()
    run = tmp_path / "run"
    run.mkdir()
    for _ in range(2):  # a run, and its resumption
        trackers = create_trackers(["wandb"], run)
        trackers.start({"ipc": 1})
        assert surroundings() == before
        trackers.log(0, {"loss": 2.0})
        trackers.finish({"mean": 0.5})
    assert surroundings() == before
    assert not [record for record in caplog.records if record.name == "condense"], "no tracker failed"
    assert capfd.readouterr().out == ""
    files = list(run.rglob("run-*.wandb"))
    assert {path.stem for path in files} == {f"run-{(run / 'wandb' / 'id').read_text()}"}
    assert any(b"loss" in path.read_bytes() for path in files)  # a busy machine may leave wandb no time for both
