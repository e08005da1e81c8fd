"""The keys micro_batch and memory_limit: what is settled, what is refused, and what a run records."""

import re
import shutil
import tomllib
from dataclasses import replace

import pytest

from condense import api, estimate, provide
from condense.cli import main
from condense.config import Layer, resolve
from condense.errors import ConfigError, RunError
from condense.estimate import GB, MICRO_BATCHES, TooLarge, rehearse, settle_memory
from condense.rehearsal import Phase
from condense.runs import RunFolder

SETTINGS = {"network": "convnet:width=4", "iterations": 2, "baselines": (), "full_data": False, "eval_repeats": 1}
SETTINGS |= {"recipe": "none"}
EXPERTS = {"num_experts": 1, "max_start_epoch": 1, "expert_epochs": 1, "syn_steps": 1, "expert_batch": 128}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))


def taken(images):
    """The bytes that the pretended rehearsal finds; a step has 700 images."""
    return int(0.2 * GB) + (images or 700) * GB // 1000


@pytest.fixture
def tried(monkeypatch):
    """A rehearsal that only pretends; and what it was asked for."""
    asked = []

    def pretended(resolved, **_):
        asked.append(resolved.run.micro_batch)
        bytes_taken = taken(asked[-1])
        if bytes_taken > 0.95 * GB:
            raise TooLarge("memory is not enough")
        return [Phase("distillation", 1, 0.1, 0.0, peak, 8, 8) for peak in (bytes_taken // 2, bytes_taken)]

    monkeypatch.setattr(estimate, "rehearse", pretended)
    return asked


def resolved(method="dm", **values):
    return resolve([Layer("test", {"method": method} | SETTINGS | values)])


def prepared(method="dm", **values):
    return api.prepare(resolved(method, **values))


@pytest.mark.parametrize("limit", [0.201, 0.2035, 0.25, 0.33, 0.456, 0.89])
def test_the_largest_that_fits_is_taken(limit, tried):
    settled = settle_memory(*prepared(memory_limit=limit))
    fitting = [images for images in MICRO_BATCHES if taken(images) <= limit * GB]
    assert settled.run.micro_batch == fitting[0] in tried
    assert settled.run.memory_limit == limit
    assert settled.origins["micro_batch"] == f"memory_limit = {limit} GB (test)"


@pytest.mark.parametrize("micro_batch, limit", [(None, 0.9), (300, 0.5)])
def test_what_fits_is_left_as_it_is(micro_batch, limit, tried):
    given, problem = prepared(memory_limit=limit, micro_batch=micro_batch)
    assert settle_memory(given, problem) == given and tried == [micro_batch]


@pytest.mark.parametrize(
    "values, words",
    [
        ({"memory_limit": 0.2}, "memory_limit = 0.2 GB is not enough: micro_batch = 1 takes 201 MB. Raise it"),
        ({"memory_limit": 9.0, "micro_batch": 800}, "9.0 GB is not enough: micro_batch = 800 takes more than there is"),
        ({"memory_limit": 0.5, "micro_batch": 400}, "0.5 GB is not enough: micro_batch = 400 takes 600 MB. Raise it"),
        (
            {"memory_limit": 0.5, "network": "convnet:norm=batch"},
            "0.5 GB is not enough: micro_batch = none takes 900 MB, and the batch norm of network "
            "'convnet:.*' needs whole batches. Raise it",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_the_least_it_takes(values, words, tried, tmp_path):
    with pytest.raises(ConfigError, match=words):
        api.run(resolved(**values), tmp_path / "run")
    assert tried
    RunFolder.create(tmp_path / "run").close()  # it is as good as new


def test_batch_norm_cannot_be_split():
    batch_norm = {"network": "convnet:norm=batch"}
    with pytest.raises(ConfigError, match=r"^micro_batch = 8: network '.*' has batch norm.*Leave micro_batch out"):
        prepared(micro_batch=8, **batch_norm)
    prepared(micro_batch=8, eval_networks=("convnet:norm=batch",))  # which the condenser does not use
    with pytest.raises(ConfigError) as raised:
        prepared(micro_batch=8, dataset="digits", network="resnet18:norm=batch", ipc=10**6)
    assert len(str(raised.value).splitlines()) == 2


def test_a_run_records_it_and_goes_on_with_it(tried, tmp_path):
    made = api.distill("dm", 1, out=tmp_path / "run", memory_limit=0.25, **SETTINGS)
    settled = list(tried)
    with pytest.raises(RunError, match="exists and is not empty"):
        api.distill("dm", 1, out=made.run, memory_limit=0.25, **SETTINGS)
    assert tried == settled == [None, 16, 64, 32]
    written = (made.run / "config.toml").read_text()
    assert "micro_batch = 32  # memory_limit = 0.25 GB (" in written
    tried.clear()
    with RunFolder.create(tmp_path / "other") as folder:
        shutil.copy(made.run / "config.toml", folder.path)
    resumed = api.resume(tmp_path / "other")
    assert not tried and tomllib.loads((resumed.run / "config.toml").read_text())["micro_batch"] == 32
    sets = [(run.artifact / "data.safetensors").read_bytes() for run in (made, resumed)]
    assert sets[0] == sets[1]


@pytest.mark.usefixtures("tried")
def test_buffer_and_run_settle_it_alike():
    wanted = resolved("mtt", memory_limit=0.25, **EXPERTS)
    path = api.train_buffer(wanted)
    assert path == provide.store_path(*prepared("mtt", micro_batch=32, **EXPERTS))
    settled, problem = api.fit_memory(*api.prepare(wanted))
    assert problem.network.micro_batch == 32 and not provide.missing_experts(settled, problem)


@pytest.mark.parametrize("micro_batch, same", [(None, True), (128, True), (500, True), (127, False)])
def test_experts_of_whole_batches_are_the_same(micro_batch, same):
    path = provide.store_path(*prepared("mtt", **EXPERTS))
    assert (provide.store_path(*prepared("mtt", micro_batch=micro_batch, **EXPERTS)) == path) == same


@pytest.mark.usefixtures("tried")
def test_check_says_what_it_is(capsys):
    settings = ["--set", "network=convnet:width=4", "recipe=none", "memory_limit=0.25"]
    with pytest.raises(SystemExit):
        main(["check", "--method", "dm", *settings])
    assert re.search(r"^micro_batch +32 \(memory_limit = 0.25 GB \(--set\)\)$", capsys.readouterr().out, re.MULTILINE)


def test_a_rehearsal_takes_less_memory_with_it():
    """Of 500 images in one inner step, whose derivatives are 0.3 GB; 8 at a time they are nothing."""
    values = EXPERTS | {"ipc": 50, "network": "convnet:width=128", "dsa": "none", "iterations": 1, "expert_batch": 8}
    whole, _ = prepared("mtt", **values)
    split = replace(whole, run=whole.run.model_copy(update={"micro_batch": 8}))
    peaks = [rehearse(tried, whole=False)[-1].peak_bytes for tried in (whole, split)]
    assert peaks[1] < peaks[0] - 2e8
