"""The experts of a run, as files that other runs find."""

import json
import time

import pytest
import torch

from condense import api, provide
from condense.config import Layer, fields, resolve
from condense.errors import NumericsError
from condense.locks import lock
from condense.runs import StopFlag

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


@pytest.fixture
def rankings(monkeypatch):
    """The seconds that each ranking of the images took."""
    taken, original = [], provide.rank_by_difficulty

    def timed(*arguments, **options):
        began = time.perf_counter()
        ranking = original(*arguments, **options)
        taken.append(time.perf_counter() - began)
        return ranking

    monkeypatch.setattr(provide, "rank_by_difficulty", timed)
    return taken


SCORES = {"score_networks": 1, "score_epochs": 1, "init_ratio": 0.5}


def test_experts_with_a_curriculum_are_the_same_one_by_one(tmp_path, rankings):
    """Their images are ranked by the first process alone."""
    for count in (1, 2):
        one_by_one = buffer("pad", tmp_path / "one by one", num_experts=count, **SCORES)
    assert len(rankings) == 1
    together = buffer("pad", tmp_path / "together", num_experts=2, **SCORES)
    trajectories = [(folder / "trajectories.bin").read_bytes() for folder in (one_by_one, together)]
    assert trajectories[0] == trajectories[1]
    identity = json.loads((together / "manifest.json").read_text())["identity"]
    assert identity.keys() == IDENTITY | {"curriculum"} and identity["curriculum"]["init_ratio"] == 0.5


def test_who_waited_for_a_store_that_is_complete_then_trains_nothing(tmp_path, monkeypatch):
    """The process that has the lock trains it all meanwhile."""

    def locked_by_another(path, wait):
        monkeypatch.setattr(provide, "lock", lock)
        buffer("pad", tmp_path / "store", num_experts=1, **SCORES)
        monkeypatch.setattr(provide, "_train_missing", None)
        return lock(path, wait)

    monkeypatch.setattr(provide, "lock", locked_by_another)
    buffer("pad", tmp_path / "store", num_experts=1, **SCORES)


def test_who_waited_for_a_teacher_then_does_not_train_it(monkeypatch):
    given = {"method": "kmeans", "network": "mlp", "teacher_epochs": 1}
    resolved, problem = api.prepare(resolve([Layer("test", given)]))
    made = []

    def locked_by_another(path, wait):
        monkeypatch.setattr(provide, "lock", lock)
        made.append(provide.teacher(resolved, problem, StopFlag()))
        monkeypatch.setattr(provide, "train_expert", None)
        return lock(path, wait)

    monkeypatch.setattr(provide, "lock", locked_by_another)
    theta, cost = provide.teacher(resolved, problem, StopFlag())
    assert torch.equal(theta, made[0][0]) and cost == made[0][1]


def test_the_networks_that_rank_are_part_of_what_the_experts_cost(tmp_path, rankings):
    small = {"iterations": 1, "syn_steps": 1, "num_experts": 1, "baselines": (), "full_data": False, "eval_repeats": 1}
    method = SMALL | SCORES | {"buffer": tmp_path / "store"}
    ipc = method.pop("ipc")
    making = [api.distill("pad", ipc, out=tmp_path / str(i), **method, **small).making["experts"] for i in range(2)]
    held = json.loads((tmp_path / "store" / "manifest.json").read_text())["costs"]
    assert making[0] == making[1]
    assert making[0].seconds == held["0"]["seconds"] + held["ranking"]["seconds"]
    assert held["ranking"]["seconds"] > sum(rankings) > 0


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("mtt", {"expert_lr": 1e30}, r"^expert 0, epoch 1: .*Lower expert_lr, which is 1e\+30$"),
        ("pad", SCORES | {"expert_lr": 1e30}, "^network that scores the images 0, .*Lower expert_lr, which is"),
        ("kmeans", {"teacher_lr": 1e30}, "^teacher 0, .*Lower teacher_lr, which is"),
    ],
)
def test_a_network_that_diverges_says_which_key_to_change(method, values, words, tmp_path):
    known = {key: SMALL[key] for key in SMALL if key in fields(method)}
    with pytest.raises(NumericsError, match=words):
        api.run(resolve([Layer("test", known | values | {"method": method})]), tmp_path / "run")


def test_an_expert_that_is_damaged_is_trained_again_to_the_same_bits(tmp_path, caplog):
    path = buffer("ftd", tmp_path / "ftd", num_experts=2) / "trajectories.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with caplog.at_level("WARNING", "condense"):
        buffer("ftd", tmp_path / "ftd", num_experts=2)
    assert path.read_bytes() == whole
    assert "experts [1] are damaged and are trained again" in caplog.text
