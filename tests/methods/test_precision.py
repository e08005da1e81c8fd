"""bfloat16 convolutions: what comes out stays float32, near to fp32's; where it is refused; that a run records it."""

import logging
import shutil
import tomllib
from dataclasses import replace

import pytest
import torch
from problems import make_condenser, make_problem

from condense import api
from condense.config import Layer, resolve
from condense.errors import ConfigError
from condense.networks import CompiledNetwork, Network, program
from condense.precision import report_precision
from condense.provide import store_path

SPEC = "convnet:width=16,norm=instance"


@pytest.fixture(autouse=True)
def traced(monkeypatch, tmp_path):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(program.torch, "compile", lambda graph, **_: graph)


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_derivatives_are_float32_and_near_to_exact_ones():
    shape = {"channels": 3, "size": 16, "classes": 3}
    exact, rough = Network(SPEC, **shape), CompiledNetwork(SPEC, precision="bf16", **shape)
    theta, m = exact.init(0, "test"), exact.init(1, "test")
    x, y = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    gradient, kept = rough.loss.gradient(theta, x, y)
    assert kept and all(part.dtype == torch.bfloat16 for part in kept)
    expected = exact.loss.slope(theta, m, x, y)
    for held in ((), kept):
        slope = rough.loss.slope(theta, m, x, y, held)
        for ours, theirs in (
            (gradient, exact.gradient(theta, x, y)[0]),
            (slope.theta, expected.theta),
            (slope.x, expected.x),
        ):
            assert ours.dtype == torch.float32
            assert 0.99 < cosine(ours, theirs) < 0.9999999
    assert rough.embed(theta, x).dtype == torch.float32


def in_bf16(problem):
    shape = {"channels": problem.data.channels, "size": problem.data.size, "classes": problem.data.num_classes}
    return replace(problem, network=CompiledNetwork(problem.network.name, precision="bf16", **shape))


@pytest.mark.parametrize(("cosine_is", "level"), [(None, logging.INFO), (2.0, logging.WARNING)])
def test_the_cosine_is_logged_before_a_run(caplog, monkeypatch, tmp_path, cosine_is, level):
    if cosine_is is not None:
        monkeypatch.setattr("condense.precision.LOW", cosine_is)
    condenser = make_condenser("dm")
    with caplog.at_level(logging.INFO, "condense"):
        found = report_precision(condenser, in_bf16(make_problem(condenser, tmp_path)))
    assert 0.99 < found <= 1.000001
    (record,) = [record for record in caplog.records if "cosine" in record.message]
    assert record.levelno == level and f"{found:.5f}" in record.message and record.message.startswith("bf16")


@pytest.mark.parametrize("accepted", [{"bf16"}, {"fp32"}, set()], ids=str)
def test_where_an_iteration_changes_nothing_there_is_nothing_to_say(accepted, caplog, monkeypatch, tmp_path):
    """A threshold may be between the losses of the two networks too."""
    condenser = make_condenser("datm")
    problem = in_bf16(make_problem(condenser, tmp_path))
    assert report_precision(condenser, problem) > 0.9
    step = condenser.step

    def judged_step(state, problem, iteration):
        condenser.accepts = lambda _: problem.network.precision in accepted
        return step(state, problem, iteration)

    monkeypatch.setattr(condenser, "step", judged_step)
    caplog.clear()
    with caplog.at_level(logging.INFO, "condense"):
        assert report_precision(condenser, problem) is None
    assert not [record for record in caplog.records if record.name == "condense"]


def test_both_changes_are_from_one_start_that_fp32_chose(monkeypatch, tmp_path):
    """Else bfloat16 might choose other images, and the cosine be about these."""
    condenser = make_condenser("datm")
    problem, networks, starts = in_bf16(make_problem(condenser, tmp_path)), [], []
    init, step = condenser.init, condenser.step

    def watched_init(problem):
        networks.append(problem.network)
        return init(problem)

    def watched_step(state, problem, iteration):
        starts.append((state["images"].clone(), state["labels"].clone()))
        return step(state, problem, iteration)

    monkeypatch.setattr(condenser, "init", watched_init)
    monkeypatch.setattr(condenser, "step", watched_step)
    report_precision(condenser, problem)
    assert [network.precision for network in networks] == ["fp32"]
    assert len(starts) == 2 and all(torch.equal(*pair) for pair in zip(*starts, strict=True))


def resolved(**values):
    return resolve([Layer("test", {"method": "mtt", "recipe": "none", "num_experts": 1} | values)])


def test_it_compiles_and_experts_are_others():
    (rough, problem), exact = api.prepare(resolved(precision="bf16")), api.prepare(resolved(compile="on"))
    assert rough.run.compile == "on" and "precision = 'bf16'" in rough.origins["compile"]
    assert problem.network.precision == "bf16" and exact[1].network.precision == "fp32"
    assert store_path(rough, problem) != store_path(*exact)


def test_it_is_refused_without_compiled_code(monkeypatch):
    with pytest.raises(ConfigError, match="precision = 'bf16' is for compiled networks, and compile = 'off'"):
        api.prepare(resolved(precision="bf16", compile="off"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler: install"):
        api.prepare(resolved(precision="bf16"))


def test_a_run_records_it(tmp_path, caplog):
    settings = {"baselines": (), "full_data": False, "eval_repeats": 1, "network": "convnet:width=4", "recipe": "none"}
    with caplog.at_level(logging.INFO, "condense"):
        run = api.distill("dm", 1, out=tmp_path / "run", precision="bf16", iterations=2, **settings).run
    assert tomllib.loads((run / "config.toml").read_text())["precision"] == "bf16"
    assert any("cosine" in record.message for record in caplog.records)
