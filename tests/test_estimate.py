"""What `check` predicts, against what a run then does: bytes on disk exactly, units of work by counting. No times."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pytest
import torch

from condense import api, comparison, estimate, evaluation, provide, rehearsal
from condense.artifact import read_manifest, stored_bytes
from condense.comparison import FULL_DATA
from condense.config import Layer, resolve
from condense.errors import ConfigError
from condense.estimate import TooLarge, disk, rehearse
from condense.evaluation import TestSet, load_protocol, protocols
from condense.experts import TrajectoryStore
from condense.methods import METHODS, DecoupledConfig, Problem
from condense.networks import Network, paying, program
from condense.rehearsal import Phase, Rehearsal
from condense.runs import StopFlag


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rehearsal, "TRY_SECONDS", 0.0)
    short = {name: replace(load_protocol(name), epochs=7, full_data_epochs=2) for name in ("quick", "kd_small")}
    monkeypatch.setattr(protocols, "load_protocols", lambda: short)


def prepared(**values):
    small = {"method": "ftd", "ipc": 2, "network": "convnet:width=4", "num_experts": 2, "max_start_epoch": 1}
    small |= {"expert_epochs": 2, "syn_steps": 3, "iterations": 4, "eval_repeats": 1, "recipe": "none"}
    given = small | {"baselines": [], "full_data": False} | values
    resolved = resolve([Layer("test", {key: value for key, value in given.items() if value is not None})])
    return api.prepare(resolved)


def rehearsed(resolved, problem):
    """The phases, tried in this process."""
    return list(Rehearsal(resolved, problem).whole())


def units(phases):
    """Of each name; of an evaluation the updates, and the batches of test images."""
    found = {}
    for phase in phases:
        found.setdefault(phase.name, []).append(phase.units)
    return found


def count_calls(monkeypatch, cls, method):
    """A list that gets an element for each call of cls.method from now on."""
    calls, original = [], getattr(cls, method)

    def counted(*arguments, **options):
        calls.append(method)
        return original(*arguments, **options)

    monkeypatch.setattr(cls, method, counted)
    return calls


NOT_ITS_OWN = ("num_experts", "max_start_epoch", "expert_epochs", "syn_steps")

# disk


def test_bytes_on_disk_are_those_of_the_run(tmp_path):
    for dtype in ("float32", "bfloat16"):
        resolved, problem = prepared(buffer=tmp_path / dtype, buffer_dtype=dtype, checkpoint_every=2)
        phases = rehearsed(resolved, problem)
        predicted = disk(resolved, problem, phases)
        result = api.run(resolved, tmp_path / f"run-{dtype}")
        assert predicted["buffer"] == (tmp_path / dtype / "trajectories.bin").stat().st_size
        header = 1500  # names and shapes in safetensors
        assert 0 < (result.artifact / "data.safetensors").stat().st_size - predicted["artifact"] < header
        saved = [file.stat().st_size for file in (result.run / "checkpoints").iterdir()]
        assert 0 < sum(saved) - predicted["checkpoints"] < 2 * header
        assert disk(resolved, problem, phases)["buffer"] == 0  # the experts are there now


@pytest.mark.parametrize(
    "values, labels",
    [
        ({"method": "datm", "zca": True}, 4 * 20 * 10),
        ({"method": "datm", "soft_labels": False}, 8 * 20),
        ({"method": "tesla", "teacher_label": True, "factor": 2, "flip": True}, 4 * 20 * 10),
        ({"method": "random_soft"}, 4 * 20 * 10),
        ({"method": "herding", "baselines": ["random_soft"]}, 8 * 20),
    ],
)
def test_all_tensors_of_the_artifact_count(values, labels, tmp_path):
    given = (
        dict.fromkeys((*NOT_ITS_OWN, "iterations")) if values["method"] in ("random_soft", "herding") else {}
    ) | values
    resolved, problem = prepared(**given)
    predicted = disk(resolved, problem, rehearsed(resolved, problem))
    stored = stored_bytes(read_manifest(api.run(resolved, tmp_path / "run").artifact))
    assert stored["labels"] == labels
    assert predicted["artifact"] == stored["images"] + stored["labels"] + stored["preprocessing"]


NCFM = {"method": "ncfm", "num_experts": 1, "pretrain_epochs": 1, "batch_real": 8}
IDM = {"method": "idm", "queue_size": 6, "net_every": 1, "net_batch": 8, "batch_real": 8}


@pytest.mark.parametrize("values", [NCFM, IDM], ids=lambda values: values["method"])
def test_what_a_method_keeps_besides_the_images_counts(values, tmp_path):
    """A checkpoint of ncfm is mostly its sampling network, one of idm its queue of networks when that is full."""
    resolved, problem = prepared(**dict.fromkeys(NOT_ITS_OWN) | values)
    predicted = max(phase.state_bytes for phase in rehearsed(resolved, problem))
    result = api.run(resolved, tmp_path / "run")
    largest = max(file.stat().st_size for file in (result.run / "checkpoints").iterdir())
    assert 0 < largest - predicted < 1500 < predicted / 10


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.Config().iterations])
def test_a_state_is_no_larger_than_when_it_is_filled(method):
    """Against the size after some iterations: only a queue of networks grows."""
    few = {"batch_real": 8, "num_experts": 1, "num_freqs": 32, "queue_size": 6, "net_every": 1, "net_batch": 8}
    few |= {"net_steps": 1, "inner_loop": 1, "train_images": 8, "batch_train": 8, "syn_steps": 2}
    few |= {"teachers": ("convnet:width=4,depth=1,norm=batch",), "teacher_epochs": 1, "candidates": 2}
    config = METHODS[method].Config(**{key: n for key, n in few.items() if key in METHODS[method].Config.model_fields})
    resolved, problem = prepared()
    problem = replace(problem, experts=rehearsal.NearbyExperts(problem.network))
    if isinstance(config, DecoupledConfig):
        resolved = replace(resolved, method=config)
        problem = replace(problem, pool=provide.pool(resolved, problem, StopFlag())[0])
    condenser = METHODS[method](config)

    def size(state):
        return sum(tensor.nbytes for tensor in state.values())

    filled, state = condenser.init(problem), condenser.init(problem)
    condenser.fill(filled)
    for iteration in range(4):
        condenser.step(state, problem, iteration)
    assert size(state) == size(filled)


# units of work


@pytest.mark.parametrize("method, rho", [("mtt", 0.0), ("ftd", 0.01)])
def test_expert_batches_are_those_of_the_training(method, rho, monkeypatch):
    extra = {"rho": rho} if method == "ftd" else {}
    resolved, problem = prepared(method=method, **extra)
    (predicted,) = units(rehearsed(resolved, problem))["experts"]
    calls = count_calls(monkeypatch, Network, "gradient")
    api.train_buffer(resolved)
    assert len(calls) == predicted * (2 if rho else 1) > 0
    assert "experts" not in units(rehearsed(resolved, problem))


def test_iterations_are_those_of_the_run():
    assert units(rehearsed(*prepared()))["distillation"] == [1, 4]  # where it starts, and then


def test_evaluation_units_are_those_of_the_run(monkeypatch, tmp_path):
    resolved, problem = prepared(eval_repeats=2, baselines=["random"], full_data=True, iterations=0)
    predicted = units(rehearsed(resolved, problem))
    updates = count_calls(monkeypatch, torch.optim.SGD, "step")
    tests = count_calls(monkeypatch, TestSet, "accuracy")  # 359 images: one batch each
    api.run(resolved, tmp_path / "run")
    names = [f"evaluation of {name}" for name in ("ftd", "random", FULL_DATA)]
    assert len(updates) == sum(predicted[name][0] for name in names)
    assert len(tests) == sum(predicted[name][1] for name in names) == 2 * 3
    assert predicted[names[0]] == [2 * 7, 2]
    assert predicted[names[2]] == [2 * 2 * 6, 2]  # 1295 images, 256 a batch


@pytest.mark.parametrize("network, updates", [("convnet:width=4", 2 * 7), ("convnet:width=4,norm=batch", 7)])
def test_a_last_batch_of_one_image_counts_where_it_is_trained_on(network, updates, monkeypatch, tmp_path):
    short = replace(load_protocol("quick"), batch=19)
    monkeypatch.setattr(protocols, "load_protocols", lambda: {"quick": short})
    resolved, problem = prepared(eval_networks=[network], iterations=0)
    predicted = units(rehearsed(resolved, problem))["evaluation of ftd"][0]
    (made,) = api.run(resolved, tmp_path / "run").evaluations
    assert predicted == made.updates == updates


@pytest.mark.parametrize("labels, units_of_labels", [("static", 1), ("dynamic", 5)])
def test_labels_are_made_once_or_epoch_by_epoch(labels, units_of_labels):
    teachers = {"teachers": ["convnet:width=4,norm=batch"], "teacher_epochs": 1, "labels": labels}
    teachers |= {} if labels == "static" else {"label_epochs": 5}
    predicted = units(rehearsed(*prepared(**dict.fromkeys(NOT_ITS_OWN) | {"method": "infer"} | teachers)))
    assert predicted["labels"] == [units_of_labels] and predicted["distillation"] == [1, 4]
    assert predicted["evaluation of infer"] == [7 if labels == "static" else 5, 1]


def test_what_is_in_the_cache_takes_no_time(tmp_path):
    resolved, problem = prepared(baselines=["random", "herding"], iterations=0)
    whole = units(rehearsed(resolved, problem))
    assert whole["teacher"] == [10 * 6] and whole["choice of herding"] == [10]
    api.run(resolved, tmp_path / "run")
    assert units(rehearsed(resolved, problem)).keys() == {"distillation", "evaluation of ftd"}


@pytest.mark.parametrize("updates", [None, 9])
def test_the_choice_of_a_learning_rate_counts(updates, monkeypatch, tmp_path):
    ends = {"epochs": 3, "full_data_epochs": 1} if updates is None else {"updates": updates}
    fair = replace(
        load_protocol("quick"), lr=None, lrs=(0.01, 0.1), **{"epochs": None, "full_data_epochs": None, **ends}
    )
    monkeypatch.setattr(protocols, "load_protocols", lambda: {"quick": fair})
    values = {"method": "random", "ipc": 2, "network": "mlp", "eval_repeats": 1, "baselines": []}
    resolved, problem = api.prepare(resolve([Layer("test", values)]))
    predicted = units(rehearsed(resolved, problem))
    calls, tests = count_calls(monkeypatch, torch.optim.SGD, "step"), count_calls(monkeypatch, TestSet, "accuracy")
    api.run(resolved, tmp_path / "run")
    names = ("evaluation of random", f"evaluation of {FULL_DATA}")
    assert len(calls) == sum(predicted[name][0] for name in names)
    assert len(calls) == 3 * (3 + 6 if updates is None else 2 * 9)
    assert len(tests) == sum(predicted[name][1] for name in names) == 2 * 3


def test_accuracies_in_the_log_count(monkeypatch, tmp_path):
    resolved, problem = prepared(eval_every=2)
    predicted = units(rehearsed(resolved, problem))
    calls = count_calls(monkeypatch, torch.optim.SGD, "step")
    api.run(resolved, tmp_path / "run")
    assert predicted["validation"] == [2 * 7, 2]
    assert len(calls) == predicted["validation"][0] + predicted["evaluation of ftd"][0]


def test_an_evaluation_is_rehearsed_compiled_where_the_run_compiles_it(monkeypatch):
    """Though it is rehearsed with fewer updates than would pay for that."""
    monkeypatch.setattr(program.torch, "compile", lambda graph, **_: graph)
    resolved, problem = prepared(eval_repeats=None, network="mlp")
    work = 5 * 7 * 20 * paying.operations("mlp", channels=1, size=8, classes=10)  # networks, epochs, images
    evaluations, original = [], evaluation.evaluate

    def evaluate(*arguments, **options):
        evaluations.append(original(*arguments, **options))
        return evaluations[-1]

    monkeypatch.setattr(comparison, "evaluate", evaluate)
    for needed, compiled in ((work, True), (work + 1, False)):
        monkeypatch.setattr(paying, "COMPILE_PAYS", needed)
        phases = [phase for phase in rehearsed(resolved, problem) if phase.name == "evaluation of ftd"]
        assert evaluations[-1].compiled == compiled == any(phase.compiling for phase in phases)
        assert evaluations[-1].updates == rehearsal.UPDATES


def test_a_teacher_is_trained_once_for_all_that_need_it():
    assert units(rehearsed(*prepared(baselines=["random", "kmeans", "herding"])))["teacher"] == [10 * 6]
    assert "teacher" not in units(rehearsed(*prepared(baselines=["random"])))


def test_experts_that_are_there_are_taken(monkeypatch):
    resolved, problem = prepared()
    api.train_buffer(resolved)
    calls = count_calls(monkeypatch, TrajectoryStore, "snapshot")
    rehearsed(resolved, problem)
    assert len(calls) == 2 * 2  # two iterations, from one snapshot to another


@pytest.mark.parametrize("experts", [1, 40])
def test_of_experts_that_are_not_there_one_is_asked_for_each_class(experts, monkeypatch):
    """As of those that are there, which know nearly all images. Stand-ins know none, however many are asked."""
    resolved, problem = prepared(method="datm", num_experts=experts, soft_labels=False, iterations=0)
    calls = count_calls(monkeypatch, Problem, "logits")
    rehearsed(resolved, problem)
    assert len(calls) == 10


# the rehearsal in a process of its own


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_rehearsal_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved, problem = prepared(baselines=["herding"])
    before = contents(tmp_path)
    found = estimate.estimate(resolved, problem)
    assert contents(tmp_path) == before
    names = ["experts", "distillation", "evaluation of ftd", "teacher", "choice of herding", "evaluation of herding"]
    assert list(found.seconds) == list(found.peaks) == names
    assert all(seconds > 0 for seconds in found.seconds.values()) and found.compiling == 0
    assert list(found.peaks.values()) == sorted(found.peaks.values())
    assert found.peaks["experts"] > 1e8  # torch alone is larger
    assert found.disk["checkpoints"] > 0


PROGRAM = """
import atexit, sys
from condense.cli import main
from condense.costs import peak_resident
atexit.register(lambda: print(peak_resident(), file=sys.stderr))
main()
"""


def test_the_peak_is_that_of_the_run(tmp_path):
    values = {"method": "dm", "ipc": 2, "network": "convnet:width=64", "iterations": 4, "batch_real": 120}
    values |= {"recipe": "none", "eval_repeats": 1}
    config = tmp_path / "config.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()) + "baselines = []\n")
    command = [sys.executable, "-c", PROGRAM, "run", "--config", config, "--set", "full_data=false", "--out", "run"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    phases = rehearse(resolve([Layer("test", values | {"baselines": [], "full_data": False, "compile": "off"})]))
    assert phases[-1].peak_bytes == pytest.approx(int(ran.stderr.split()[-1]), rel=0.15)


DONE = {"phase": asdict(Phase("experts", 3, 0.1, 0.0, 2_500_000_000))}


def child(monkeypatch, code, *lines):
    """What stands in for the rehearsal: it prints the lines, then runs the code."""
    said = "".join(f"print({json.dumps(line)!r}, flush=True)\n" for line in lines)
    monkeypatch.setattr(estimate, "REHEARSAL", (sys.executable, "-c", f"import os, sys, time\n{said}{code}"))


def test_a_killed_rehearsal_is_a_run_that_is_too_large(monkeypatch):
    child(monkeypatch, "os.kill(os.getpid(), 9)", DONE)
    words = (
        "memory is not enough for this run: its rehearsal was killed by SIGKILL, .* after experts, which took 2.5 GB"
    )
    with pytest.raises(TooLarge, match=words):
        rehearse(prepared()[0])


def test_so_is_one_whose_tensors_do_not_fit(monkeypatch):
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55)
    assert rehearsal.is_out_of_memory(error.value) and not rehearsal.is_out_of_memory(RuntimeError("a bug"))
    child(monkeypatch, "", DONE, {"out_of_memory": str(error.value).splitlines()[0]})
    words = "allocate memory.* after experts, .*, or give micro_batch or memory_limit, for which .* without batch norm$"
    with pytest.raises(TooLarge, match=words):
        rehearse(prepared()[0])


def test_a_bug_is_no_lack_of_memory(monkeypatch, capfd):
    child(monkeypatch, "raise KeyError('a bug')", DONE)
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        rehearse(prepared()[0])
    assert "KeyError: 'a bug'" in capfd.readouterr().err


def test_what_only_the_method_can_tell_is_found():
    resolved, _ = prepared(method="datadam", network="mlp", **dict.fromkeys(NOT_ITS_OWN))
    with pytest.raises(ConfigError, match="'mlp' has 0 feature maps"):
        rehearse(resolved)


def test_a_ctrl_c_ends_the_rehearsal_too(monkeypatch):
    child(monkeypatch, "print('{\"x\": 0}', flush=True); time.sleep(100)")
    started = []
    original = subprocess.Popen

    def popen(*arguments, **options):
        started.append(original(*arguments, **options))
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)
    resolved, _ = prepared()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            rehearse(resolved)
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].returncode == -signal.SIGKILL
