"""Units as processes of this machine."""

import builtins
import hashlib
import importlib.util
import json
import os
import re
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import load_file
from small_work import BUFFER, fail, greet, result, run, unit, wait

from condense import api
from condense.artifact import read_manifest
from condense.cli import main
from condense.config import Layer, resolve
from condense.errors import UnitError
from condense.experts import TrajectoryStore
from condense.runs import StopFlag, Stopped
from condense.scale import Local, finish, local


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(local, "POLL", 0.02)


def test_units_leave_files_results_and_reasons(tmp_path):
    """Each in a process of its own; what fails keeps nobody from the others."""
    units = [unit(tmp_path, f"u{i}", greet, text=f"text {i}") for i in range(2)]
    broken = unit(tmp_path, "broken", fail, tries=str(tmp_path / "tries"))
    steps, ends = run(Local(2), [units[0], broken, units[1]], threads=3)
    assert steps == {"u0": 2, "u1": 2, "broken": 1}
    assert ends["u0"] is ends["u1"] is None
    assert ends["broken"].splitlines()[0] == "exit code 1"
    assert ends["broken"].splitlines()[-1] == "RuntimeError: nothing works in broken"
    assert broken.error.read_text() == ends["broken"] and "Traceback" in broken.log.read_text()
    assert (tmp_path / "tries").read_text() == "x"
    assert [result(u)["text"] for u in units] == ["text 0", "text 1"]
    assert (units[1].folder / "below" / "file").read_text() == "text 1"
    assert {result(u)["threads"] for u in units} == {"3"}
    assert len({result(u)["process"] for u in units} | {os.getpid()}) == 3


def test_finished_units_are_not_done_again_and_failures_are_raised_at_the_end(tmp_path):
    units = [unit(tmp_path, "broken", fail, tries=str(tmp_path / "tries")), unit(tmp_path, "good", greet, text="a")]
    units[1].folder.mkdir()
    (units[1].folder / "result.json").write_text("{}")
    seen, found = [], []
    with pytest.raises(UnitError) as raised:
        found += finish(units, Local(), StopFlag(), steps=2, show=seen.append)
        for done in finish(units, Local(), StopFlag(), steps=2, show=seen.append):
            found.append(done)
    assert "1 of 2 failed" in str(raised.value) and str(units[0].log) in str(raised.value)
    assert seen == [2 + 1] and result(units[1]) == {}


def test_a_stop_reaches_the_process_of_a_unit(tmp_path):
    stop, mark = StopFlag(), tmp_path / "mark"

    def press():
        while not mark.exists() or not mark.read_text():
            time.sleep(0.02)
        stop.requested = signal.SIGTERM

    threading.Thread(target=press, daemon=True).start()
    waiting = unit(tmp_path, "u", wait, mark=str(mark))
    with pytest.raises(Stopped):
        run(Local(), [waiting], stop=stop)
    assert "stopped by SIGTERM" in waiting.log.read_text() and not waiting.error.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def trajectories(folder):
    return hashlib.sha256((folder / "trajectories.bin").read_bytes()).hexdigest()


def buffer(folder, executor=None, **values):
    return api.train_buffer(resolve([Layer("test", BUFFER | {"buffer": folder} | values)]), executor)


def test_experts_of_several_processes_are_those_of_one(tmp_path, monkeypatch, capsys):
    """To the bit, with a ranking of the images that only the first process makes; the store says with what threads."""
    monkeypatch.setattr(local, "cores", lambda: 2 * torch.get_num_threads())
    here, apart = buffer(tmp_path / "here"), buffer(tmp_path / "apart", Local(2))
    assert trajectories(here) == trajectories(apart)
    assert len(re.findall(r"experts (\d+)/\1 ", capsys.readouterr().err)) == 2
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (here, apart)]
    seals, costs = ([manifest.pop(key) for manifest in manifests] for key in ("seal", "costs"))
    assert manifests[0] == manifests[1] and len(set(seals)) == 2  # of other costs
    assert costs[0].keys() == costs[1].keys() == {"0", "1", "ranking"}
    assert set(manifests[0]["threads"].values()) == {torch.get_num_threads()}
    assert not list((apart / "units").glob("*/"))


def test_an_expert_that_an_earlier_command_finished_is_taken(tmp_path, monkeypatch):
    """Its unit was done, and the command killed before it could take it over."""
    taken = TrajectoryStore.take
    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryStore, "take", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            buffer(tmp_path / "store", Local(), num_experts=1)
    assert [folder.name for folder in (tmp_path / "store" / "units").glob("*/")] == ["expert-0000"]
    seen = []
    monkeypatch.setattr(TrajectoryStore, "take", lambda *given: (seen.append(given[1]), taken(*given))[1])
    monkeypatch.setattr(local, "command", lambda _: ["false"])
    assert buffer(tmp_path / "store", Local(), num_experts=1) == tmp_path / "store"
    assert seen == [0] and json.loads((tmp_path / "store" / "manifest.json").read_text())["experts"] == [0]


def test_teachers_of_several_processes_are_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 2 * torch.get_num_threads())
    values = {"method": "rded", "recipe": "none", "ipc": 1, "teacher_epochs": 2, "label_epochs": 1}
    values["teachers"] = ["convnet:width=4,norm=batch", "convnet:width=4,depth=1,norm=batch"]
    found = []
    for name, executor in (("here", None), ("apart", Local(2))):
        monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / name))
        folder = api.train_buffer(resolve([Layer("test", values)]), executor)
        assert sorted({path.suffix for path in folder.iterdir()} - {".lock", ".log"}) == [".safetensors"]
        found.append({file.name: load_file(file) for file in folder.glob("*.safetensors")})
    assert found[0].keys() == found[1].keys() and len(found[0]) == 2
    for name, here in found[0].items():
        numbers = [held[name].pop("numbers") for held in found]
        assert numbers[0][0] == numbers[1][0]  # the accuracy; the rest is what it took
        assert all(torch.equal(tensor, found[1][name][key]) for key, tensor in here.items())


def test_networks_of_several_processes_are_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 2 * torch.get_num_threads())
    keys = {"eval_networks": ["mlp"], "eval_repeats": 1, "baselines": [], "full_data": False, "protocol": "quick"}
    made = api.distill("random", 1, out=tmp_path / "run", recipe="none", **keys).artifact
    here = api.evaluate_artifact(made, eval_repeats=2)
    apart = api.evaluate_artifact(made, (), Local(2), eval_repeats=2)
    assert apart == here and len(here[0].values) == 2
    assert read_manifest(made).evaluations[-1].values == here[0].values
    assert not [path for path in (tmp_path / "cache" / "evaluations").iterdir() if path.is_dir()]


def call(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--gpus-per-unit", "0.5"], "--gpus-per-unit 0.5 is for --executor ray"),
        (["--ray-address", "auto"], "--ray-address auto is for --executor ray"),
    ],
)
def test_flags_that_do_not_fit(flags, words, tmp_path, capsys):
    for verb in (["buffer", "--method", "mtt"], ["bench", tmp_path, "--out", tmp_path / "new"], ["eval", tmp_path]):
        assert call(*verb, *flags) == 2
        assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_robustness_is_measured_in_this_process(tmp_path, capsys):
    assert call("eval", tmp_path, "--robust", "--jobs", "2") == 2
    assert "leave out --executor and --jobs" in capsys.readouterr().err


def test_without_ray_its_executor_says_what_to_install(monkeypatch, capsys):
    found, imported = importlib.util.find_spec, builtins.__import__
    monkeypatch.setattr("condense.scale.cluster.find_spec", lambda name: None if name == "ray" else found(name))
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: imported(name, *rest) if name != "ray" else 1 / 0)
    assert call("buffer", "--method", "mtt", "--executor", "ray") == 2
    assert capsys.readouterr().err == (
        "error: --executor ray needs Ray, which is not installed: pip install 'condense-dd[ray]'\n"
    )
