"""The experts of a run, as files that other runs find."""

import json

import pytest

from condense import api
from condense.config import Layer, resolve

SMALL = {"network": "convnet:width=4,depth=1", "max_start_epoch": 1, "expert_epochs": 1, "recipe": "none", "ipc": 1}
IDENTITY = {
    "adaptive",
    "alpha",
    "batch",
    "composed",
    "cutmix",
    "data",
    "data_sha256",
    "decay_epochs",
    "decay_factor",
    "dsa",
    "lr",
    "momentum",
    "network",
    "numerics",
    "preprocessing",
    "rho",
    "seed",
    "validation",
    "weight_decay",
}


def buffer(method, folder, **values):
    """The folder of the experts of such a run."""
    return api.train_buffer(resolve([Layer("test", SMALL | {"method": method, "buffer": folder} | values)]))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))


def test_what_a_plan_does_not_use_is_no_part_of_a_stores_identity(tmp_path):
    """So the experts that earlier versions trained are found by later ones, which can do more."""
    manifest = json.loads((buffer("ftd", tmp_path / "ftd", num_experts=1) / "manifest.json").read_text())
    assert manifest["identity"].keys() == IDENTITY


def test_experts_with_a_curriculum_are_the_same_one_by_one(tmp_path):
    """Their scores are computed again by each process, to the same ranking."""
    scores = {"score_networks": 1, "score_epochs": 1, "init_ratio": 0.5}
    for count in (1, 2):
        one_by_one = buffer("pad", tmp_path / "one by one", num_experts=count, **scores)
    together = buffer("pad", tmp_path / "together", num_experts=2, **scores)
    trajectories = [(folder / "trajectories.bin").read_bytes() for folder in (one_by_one, together)]
    assert trajectories[0] == trajectories[1]
    identity = json.loads((together / "manifest.json").read_text())["identity"]
    assert identity.keys() == IDENTITY | {"curriculum"} and identity["curriculum"]["init_ratio"] == 0.5
