"""What `check` predicts, against what a run then does: bytes exactly, passes by counting them. No times."""

from dataclasses import replace

import pytest
import torch

from condense import api, estimate
from condense.comparison import FULL_DATA
from condense.config import Layer, resolve
from condense.estimate import disk, measure, memory, phases
from condense.evaluation import load_protocol, protocols
from condense.networks import Network
from condense.provide import missing_experts


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate, "PROBE_SECONDS", 0.0)
    short = replace(load_protocol("quick"), epochs=7, full_data_epochs=2)
    monkeypatch.setattr(protocols, "load_protocols", lambda: {"quick": short})


def prepared(**values):
    small = {"method": "ftd", "ipc": 2, "network": "convnet:width=4", "num_experts": 2, "max_start_epoch": 1}
    small |= {"expert_epochs": 2, "syn_steps": 3, "iterations": 4, "eval_repeats": 1, "recipe": "none"}
    given = small | {"baselines": [], "full_data": False} | values
    resolved = resolve([Layer("test", {key: value for key, value in given.items() if value is not None})])
    return api.prepare(resolved)


def count_calls(monkeypatch, cls, method):
    """A list that gets an element for each call of cls.method from now on."""
    calls, original = [], getattr(cls, method)

    def counted(*arguments, **options):
        calls.append(method)
        return original(*arguments, **options)

    monkeypatch.setattr(cls, method, counted)
    return calls


def passes(resolved, problem):
    total = {}
    for phase in phases(resolved, problem):
        total[phase.name] = total.get(phase.name, 0) + phase.passes
    return total


def test_bytes_on_disk_are_those_of_the_run(tmp_path):
    for dtype in ("float32", "bfloat16"):
        resolved, problem = prepared(buffer=tmp_path / dtype, buffer_dtype=dtype)
        predicted = disk(resolved, problem)
        result = api.run(resolved, tmp_path / f"run-{dtype}")
        assert predicted["buffer"] == (tmp_path / dtype / "trajectories.bin").stat().st_size
        header = 1500  # names and shapes in safetensors, labels, learning rate, preprocessing
        assert 0 < (result.artifact / "data.safetensors").stat().st_size - predicted["artifact"] < header
        saved = [file.stat().st_size for file in (result.run / "checkpoints").iterdir()]
        assert 0 < sum(saved) / len(saved) - predicted["checkpoints"] / 2 < header
        assert disk(resolved, problem)["buffer"] == 0  # the experts are there now


def test_a_whitening_matrix_counts():
    without, with_zca = (prepared(zca=zca) for zca in (False, True))
    assert disk(*with_zca)["artifact"] - disk(*without)["artifact"] == 2 * 4 * 64 * 64
    assert memory(*with_zca)["data"] - memory(*without)["data"] == 4 * 64 * 1295
    assert memory(*without)["data"] == 1797 * (64 + 8)  # uint8 images, int64 labels


@pytest.mark.parametrize("method, rho", [("mtt", 0.0), ("ftd", 0.01)])
def test_expert_passes_are_those_of_the_training(method, rho, monkeypatch):
    extra = {"rho": rho} if method == "ftd" else {}
    resolved, problem = prepared(method=method, **extra)
    predicted = passes(resolved, problem)["experts"]
    calls = count_calls(monkeypatch, Network, "logits")
    api.train_buffer(resolved)
    assert len(calls) == predicted > 0
    assert not missing_experts(resolved, problem) and passes(resolved, problem)["experts"] == 0


def test_evaluation_passes_are_those_of_the_training(monkeypatch, tmp_path):
    resolved, problem = prepared(eval_repeats=2, baselines=["random"], full_data=True, iterations=0)
    predicted = passes(resolved, problem)
    calls = count_calls(monkeypatch, torch.optim.SGD, "step")
    api.run(resolved, tmp_path / "run")
    tests = 2 * 3 / 3  # two networks, three sets, one batch of test images each, a third of a pass
    names = [f"evaluation of {name}" for name in ("ftd", "random", FULL_DATA)]
    assert len(calls) == pytest.approx(sum(predicted[name] for name in names) - tests)
    assert predicted[names[0]] == pytest.approx(2 * 7 + 2 / 3)
    assert predicted[names[2]] == pytest.approx(2 * 2 * 6 + 2 / 3)  # 1295 images, 256 a batch


@pytest.mark.parametrize("updates", [None, 9])
def test_the_choice_of_a_learning_rate_counts(updates, monkeypatch, tmp_path):
    ends = {"epochs": 3, "full_data_epochs": 1} if updates is None else {"updates": updates}
    fair = replace(
        load_protocol("quick"), lr=None, lrs=(0.01, 0.1), **{"epochs": None, "full_data_epochs": None, **ends}
    )
    monkeypatch.setattr(protocols, "load_protocols", lambda: {"quick": fair})
    values = {"method": "random", "ipc": 2, "network": "mlp", "eval_repeats": 1, "baselines": []}
    resolved = resolve([Layer("test", values)])
    resolved, problem = api.prepare(resolved)
    predicted = passes(resolved, problem)
    calls = count_calls(monkeypatch, torch.optim.SGD, "step")
    api.run(resolved, tmp_path / "run")
    names = ("evaluation of random", f"evaluation of {FULL_DATA}")
    tests = 2 / 3  # one network, two sets, one batch of test images each, a third of a pass
    assert len(calls) == pytest.approx(sum(predicted[name] for name in names) - tests)
    assert len(calls) == 3 * (3 + 6 if updates is None else 2 * 9)


def test_phases_of_the_distillation():
    def distillation(**values):
        (phase,) = (phase for phase in phases(*prepared(**values)) if phase.name == "distillation")
        return phase.passes, phase.batch, phase.vectors, phase.graphs

    assert distillation() == (4 * 3 * 4, 20, 5, 4)
    assert distillation(batch_syn=7) == (48, 7, 5, 4)
    assert distillation(batch_syn=70) == (48, 20, 5, 4)
    assert distillation(syn_steps=30) == (480, 20, 32, 4)
    assert distillation(syn_steps=30, unroll="graph") == (480, 20, 90, 120)


def test_a_teacher_is_trained_once_for_all_that_need_it():
    resolved, problem = prepared(baselines=["random", "kmeans", "herding"])
    assert passes(resolved, problem)["teacher"] == 10 * 6
    assert "teacher" not in passes(*prepared(baselines=["random"]))


def test_the_buffer_is_in_the_memory_of_an_accelerator_alone():
    resolved, problem = prepared()
    assert memory(resolved, problem)["buffer"] == 0
    elsewhere = replace(problem, data=problem.data.to(torch.device("meta")))  # stands for one
    assert memory(resolved, elsewhere)["buffer"] == disk(resolved, problem)["buffer"] > 0


def test_measured_bytes_are_the_activations_of_the_network():
    network = Network("mlp", channels=1, size=8, classes=10)
    per_image = 4 * (64 + 2 * 128 + 10)  # input, two hidden layers, logits: each kept once at least
    small, large, largest = (measure(network, batch) for batch in (16, 64, 640))
    assert 16 * per_image <= small.bytes <= 2 * 16 * per_image
    assert 3.9 < large.bytes / small.bytes <= 4
    assert largest.bytes == 10 * large.bytes and largest.seconds > 0


def test_the_estimate_adds_up():
    resolved, problem = prepared(baselines=["random"])
    found = estimate.estimate(resolved, problem)
    assert list(found.seconds) == ["experts", "distillation", "evaluation of ftd", "evaluation of random"]
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.disk == disk(resolved, problem)
    assert {**found.memory, "work": 0} == memory(resolved, problem) | {"work": 0}
    vectors = 4 * problem.network.num_parameters
    cost = measure(problem.network, 256).bytes  # experts: the largest batch of all phases
    assert found.memory["work"] == max(4 * vectors + cost, 5 * vectors + 4 * measure(problem.network, 20).bytes)


def test_what_a_method_keeps_besides_the_images_counts(tmp_path):
    """A checkpoint of ncfm is mostly its sampling network, one of idm its queue of networks."""
    few = {"num_experts": 1, "pretrain_epochs": 1, "batch_real": 8}
    for values in ({"method": "ncfm", **few}, {"method": "idm", "queue_size": 4, "net_batch": 8, "batch_real": 8}):
        unset = dict.fromkeys(("max_start_epoch", "expert_epochs", "syn_steps"))
        unset |= {} if values["method"] == "ncfm" else {"num_experts": None}
        resolved, problem = prepared(**unset | values)
        result = api.run(resolved, tmp_path / str(values["method"]))
        saved = [file.stat().st_size for file in (result.run / "checkpoints").iterdir()]
        images = 4 * 20 * 64  # bytes; the prediction has them three times, whatever the method
        missing = disk(resolved, problem)["checkpoints"] / 2 - sum(saved) / len(saved)
        assert -1500 < missing <= images < 4 * resolved.method.state_numbers(problem.network)
