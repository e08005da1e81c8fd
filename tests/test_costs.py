"""What making a set took, whatever was interrupted in between and wherever its parts came from."""

import json
import os
import signal
import time

import pytest
import torch

from condense import api
from condense.artifact import read_manifest
from condense.costs import NOTHING, Cost, Meter
from condense.methods.dm import DM
from condense.runs import Stopped
from condense.text import seal

SETTINGS = {
    "network": "convnet:width=4,depth=2",
    "eval_repeats": 1,
    "protocol": "quick",
    "baselines": (),
    "full_data": False,
}
TRAJECTORY = {"num_experts": 2, "max_start_epoch": 2, "expert_epochs": 1, "iterations": 2, "syn_steps": 2}
PAUSE = 0.05


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))


def distill(method, out, **changes):
    return api.distill(method, 1, out=out, **SETTINGS | changes)


def test_costs_follow_one_another():
    assert Cost(2.0, 5).after(Cost(1.0, 7)) == Cost(3.0, 7)
    assert Cost(2.0, 5).after(NOTHING) == Cost(2.0, 5)
    assert Cost(2.0, 5).after(None) is None


def test_a_meter_measures_time_and_the_memory_of_this_process():
    meter = Meter(torch.device("cpu"))
    first = meter.read()
    held = torch.ones(2**24)  # 64 MiB, touched
    time.sleep(0.02)
    second = meter.read()
    assert second.seconds >= first.seconds + 0.02
    assert second.peak_bytes >= first.peak_bytes and second.peak_bytes > held.nbytes


def test_each_part_is_there_and_travels_with_the_set(tmp_path):
    result = distill("mtt", tmp_path / "mtt", **TRAJECTORY)
    assert list(result.making) == ["experts", "distillation"]
    assert all(cost.seconds > 0 and cost.peak_bytes > 2**20 for cost in result.making.values())
    recorded = read_manifest(result.artifact).making
    assert {part: Cost(**cost.model_dump()) for part, cost in recorded.items()} == result.making
    assert api.resume(result.run) == result
    assert list(distill("kmeans", tmp_path / "kmeans").making) == ["teacher", "distillation"]


def test_what_comes_from_the_cache_costs_what_it_took(tmp_path):
    for name, settings in (("mtt", TRAJECTORY), ("kmeans", {})):
        part = {"mtt": "experts", "kmeans": "teacher"}[name]
        first, second = (distill(name, tmp_path / f"{name}{i}", **settings).making for i in range(2))
        assert first[part] == second[part]
        assert first["distillation"] != second["distillation"]


def test_an_interruption_takes_no_time_and_forgets_none(tmp_path, monkeypatch):
    """Stopped after two of four slow iterations: the cost is that of all four, without what passed in between."""
    step, taken = DM.step, 0.0

    def slow(self, state, problem, iteration):
        time.sleep(PAUSE)
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, state, problem, iteration)

    monkeypatch.setattr(DM, "step", slow)
    began = time.perf_counter()
    with pytest.raises(Stopped):
        distill("dm", tmp_path / "run", iterations=4)
    taken += time.perf_counter() - began
    time.sleep(1)
    began = time.perf_counter()
    making = api.resume(tmp_path / "run").making
    taken += time.perf_counter() - began
    assert 4 * PAUSE <= making["distillation"].seconds < taken
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert making["distillation"].seconds >= sum(line["seconds"] for line in lines)


def test_a_set_without_costs_has_none(tmp_path):
    """As an earlier version left it: the set, but not yet its evaluation."""
    result = distill("dm", tmp_path / "run", iterations=1)
    (result.run / "result.json").unlink()
    manifest = result.artifact / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["making"]
    manifest.write_bytes(seal(content, indent=2))
    assert api.resume(result.run).making == {}
