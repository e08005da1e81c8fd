"""When a run is compiled: `compile` is settled by configuration and data, and recorded."""

import json
import shutil
import tomllib

import pytest

from condense import api
from condense.comparison import real_images
from condense.config import Layer, resolve
from condense.errors import ConfigError
from condense.methods import METHODS
from condense.networks.paying import COMPILE_PAYS
from condense.provide import planned_operations, settle_compile, store_path
from condense.runs import RunFolder, StopFlag

LARGE = {"method": "mtt", "ipc": 10, "iterations": 10**6, "recipe": "none", "num_experts": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))


def settled(**values):
    resolved = resolve([Layer("test", values)])
    data = api.provide.load_run_data(resolved)
    return settle_compile(resolved, data), data


def test_it_is_on_where_the_work_pays_for_it():
    small, _ = settled(**LARGE | {"iterations": 10})
    large, _ = settled(**LARGE)
    assert (small.run.compile, large.run.compile) == ("off", "on")
    assert large.origins["compile"].endswith("floating-point operations are planned")
    for given in ("on", "off"):
        assert settled(**LARGE, compile=given)[0].run.compile == given


def test_operations_are_counted():
    """Of the mlp: 64 -> 128 -> 128 -> 10 products and as many sums; thrice for a pass forward and backward."""
    forward = 2 * (64 * 128 + 128 * 128 + 128 * 10)
    for method, images in {"dm": 100 * (10 * 256 / 3 + 10), "random": 0, "herding": 10 * 1295}.items():
        keys = {"iterations": 100} if method == "dm" else {}
        resolved, data = settled(method=method, network="mlp", recipe="none", **keys)
        assert len(data.train) == 1295
        assert planned_operations(resolved, data) == pytest.approx(3 * forward * images)
    assert planned_operations(*settled(**LARGE)) > COMPILE_PAYS


PASSES = {"dc": 7360, "dsa": 7360, "idc": 2346.88, "dm": 2860 / 3, "idm": 20320 / 3, "ncfm": 12640 / 3}
PASSES |= {"datadam": 940 / 3, "atom": 940 / 3}
PASSES |= dict.fromkeys(["mtt", "ftd", "tesla", "datm", "pad", "ast"], 8000)


@pytest.mark.parametrize("method", METHODS)
def test_passes_of_an_iteration(method):
    """At ipc 10 and 10 classes, worked out by hand: they decide the bits of a run, so they stay."""
    assert METHODS[method].Config().passes(10, 10) == pytest.approx(PASSES.get(method, 0))


@pytest.mark.parametrize("disabled", [False, True])
def test_without_a_compiler(disabled, monkeypatch):
    if disabled:
        monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    else:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    resolved, _ = settled(**LARGE)
    assert resolved.run.compile == "off" and resolved.origins["compile"].endswith("no C++ compiler")
    with pytest.raises(ConfigError, match="compile = 'on' needs a C\\+\\+ compiler: install g\\+\\+"):
        settled(**LARGE, compile="on")


def test_experts_that_were_compiled_are_others():
    paths = [store_path(*api.prepare(resolve([Layer("test", LARGE | {"compile": on})]))) for on in ("on", "off")]
    assert paths[0] != paths[1]


def test_a_run_records_it_and_a_run_of_an_earlier_version_goes_on_without(tmp_path):
    settings = {"baselines": (), "full_data": False, "eval_repeats": 1, "network": "mlp"}
    run = api.distill("random", 1, out=tmp_path / "run", **settings).run
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["compile"] == "off"
    del config["compile"]
    with RunFolder.create(tmp_path / "old") as folder:
        folder.write_config(config, dict.fromkeys(config, "default"))
    artifact = api.resume(tmp_path / "old").artifact
    assert json.loads((artifact / "manifest.json").read_text())["config"]["compile"] == "off"


@pytest.mark.parametrize(("baseline", "changes"), [("kmeans", True), ("random", False)])
def test_what_changes_the_bits_of_a_teacher_changes_the_key_of_a_baseline(baseline, changes):
    keys = []
    for extra in ({}, {"micro_batch": 8}):
        resolved, problem = api.prepare(
            resolve([Layer("test", {"method": "dm", "network": "mlp", "compile": "off"} | extra)])
        )
        keys.append(real_images(baseline, resolved, problem, StopFlag())[0])
    assert (keys[0] != keys[1]) is changes
