"""Evaluating from Python: artifacts, own sets, own networks, and what is refused before any training."""

import json
import shutil

import pytest
import torch
from short import short_protocols
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import condense
from condense import api
from condense.errors import ConfigError, DataError
from condense.evaluation import TestSet as HeldOut
from condense.evaluation import TrainingSet, evaluate, load_protocol
from condense.rng import generator
from condense.text import seal

CLASSES = 3


class Mine(nn.Sequential):
    def __init__(self, inputs=64, outputs=10):
        super().__init__(nn.Flatten(), nn.Linear(inputs, outputs))


@pytest.fixture(scope="module", autouse=True)
def short(tmp_path_factory):
    changes = {"epochs": 3, "full_data_epochs": 1}
    with short_protocols(tmp_path_factory.mktemp("cache"), {"quick": changes, "fair": changes}):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = {"network": "mlp", "baselines": (), "full_data": False}
    return api.distill("random", 1, out=tmp_path_factory.mktemp("made") / "run", **settings).artifact


@pytest.fixture
def artifact(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def recorded(artifact):
    return json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["evaluations"]


def blobs(n, seed):
    labels = torch.arange(n) % CLASSES
    patterns = torch.randn(CLASSES, 1, 4, 4, generator=generator(0, "patterns"))
    return patterns[labels] + torch.randn(n, 1, 4, 4, generator=generator(seed, "noise")), labels


OWN = TensorDataset(*blobs(9, 1))
TEST, VALIDATION = TensorDataset(*blobs(90, 2)), TensorDataset(*blobs(60, 3))


def own(source=OWN, **given):
    return condense.evaluate(source, **{"networks": "mlp", "test": TEST, "protocol": "quick", **given})


# artifacts


def test_a_folder_gets_its_results_and_an_artifact_in_memory_gives_the_same(artifact):
    (result,) = condense.evaluate(artifact, seed=4)
    assert (result.network, result.n, result.seed) == ("mlp", 2, 4)
    assert [record["seed"] for record in recorded(artifact)] == [0, 4]
    assert condense.evaluate(condense.load(artifact), seed=4) == [result]
    assert len(recorded(artifact)) == 2


def test_a_users_network_beside_a_named_one(artifact):
    mine, mlp = condense.evaluate(str(artifact), [Mine, "mlp"], protocol="fair", n=3)
    assert (mine.network, mlp.network) == ("Mine", "mlp") and mine.n == len(mine.values) == 3
    choice = recorded(artifact)[1]
    assert (choice["network"], choice["lr"]) == ("Mine", mine.lr)
    assert choice["pilots"] == [{"lr": pilot.lr, "accuracy": pilot.accuracy} for pilot in mine.pilots]
    assert [pilot["lr"] for pilot in choice["pilots"]] == [0.003, 0.01, 0.03, 0.1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"networks": [lambda: Mine(outputs=9)]}, r"gives \[2, 9\] for images \[2, 1, 8, 8\]"),
        ({"networks": ["mlp", lambda: Mine(inputs=5)]}, "does not take images"),
        ({"networks": Mine()}, "is one network"),
        ({"networks": "convent"}, "unknown network 'convent'"),
        ({"test": TEST}, "test: a distilled set is tested on the data that it was made from"),
        ({"test": TEST, "validation": TEST}, "test and validation: a distilled set"),
        ({"dsa": "crop"}, "unknown key of an evaluation 'dsa'"),
        ({"protocol": "fari"}, "Did you mean 'fair'"),
        ({"n": 0}, "eval_repeats = 0"),
    ],
)
def test_a_wrong_evaluation_of_an_artifact_is_refused(artifact, given, message):
    before = recorded(artifact)
    with pytest.raises(ConfigError, match=message):
        condense.evaluate(artifact, **given)
    assert recorded(artifact) == before


def test_a_protocol_that_chooses_needs_a_validation_split(artifact):
    manifest = artifact / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["config"]["validation"] = 0.0
    manifest.write_bytes(seal(content, indent=2))
    with pytest.raises(ConfigError, match="protocol 'fair' chooses the learning rate on a validation split"):
        condense.evaluate(artifact, protocol="fair")
    assert len(condense.evaluate(artifact)) == 1


def test_a_run_is_refused_before_it_distils_if_its_protocol_lacks_the_split(tmp_path):
    with pytest.raises(ConfigError, match="protocol 'fair' chooses"):
        api.distill("random", 1, out=tmp_path / "run", network="mlp", protocol="fair", validation=0.0)
    assert not (tmp_path / "run").exists()


def test_a_run_with_the_fair_protocol_can_be_resumed(tmp_path):
    result = api.distill("random", 1, out=tmp_path / "run", network="mlp", protocol="fair", baselines=("herding",))
    assert api.resume(result.run) == result
    (tmp_path / "run" / "result.json").unlink()
    assert api.resume(result.run) == result  # from the cache, and into the manifest no second time
    assert len(recorded(result.artifact)) == 1
    for found in (result.evaluations[0], result.baselines["herding"][0], result.baselines["full data"][0]):
        assert len(found.pilots) == 4 and found.lr == max(found.pilots, key=lambda pilot: pilot.accuracy).lr


# sets of one's own


def test_own_sets_give_what_the_evaluator_gives():
    (result,) = own()
    settings = {"classes": CLASSES, "protocol": load_protocol("quick"), "seed": 0, "device": torch.device("cpu")}
    direct = evaluate(
        TrainingSet(*blobs(9, 1)),
        HeldOut(*blobs(90, 2)),
        "mlp",
        dsa="color_crop_cutout_flip_scale_rotate",
        **settings,
    )
    assert result == direct
    assert own(TrainingSet(*blobs(9, 1)), test=HeldOut(*blobs(90, 2)), device="cpu") == [result]


def test_own_probabilities_rate_and_strategy():
    images, labels = blobs(9, 1)
    soft = nn.functional.one_hot(labels, 4).float()  # a fourth class that no image has
    (result,) = own(TensorDataset(images, soft), dsa="crop")
    assert result.augmentation == "crop"
    (result,) = own(TrainingSet(images, soft, lr=0.2), networks=lambda: Mine(16, 4))
    assert (result.network, result.lr) == ("<lambda>", 0.2)


def test_an_artifact_can_be_tested_on_other_data(made):
    """As any Dataset: its tensors, and test images that went through its preprocessing."""
    loaded = condense.load(made)
    images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "pixels"))
    test = TensorDataset(loaded.preprocess(images), torch.arange(20) % 10)
    assert len(own(TensorDataset(loaded.images, loaded.labels), test=test)) == 1


def test_the_choice_is_made_on_the_validation_set_given():
    (right,) = own(protocol="fair", validation=VALIDATION)
    flipped = TensorDataset(VALIDATION.tensors[0], (VALIDATION.tensors[1] + 1) % CLASSES)
    (wrong,) = own(protocol="fair", validation=flipped)
    assert wrong.pilots != right.pilots and wrong.lr < right.lr
    other = TensorDataset(TEST.tensors[0], TEST.tensors[1].roll(1))
    (elsewhere,) = own(protocol="fair", validation=VALIDATION, test=other)
    assert (elsewhere.lr, elsewhere.pilots) == (right.lr, right.pilots) and elsewhere.values != right.values


@pytest.mark.parametrize(
    ("error", "given", "message"),
    [
        (ConfigError, {"networks": ()}, r"needs networks, for example \['convnet'\], and a test set"),
        (ConfigError, {"test": None}, "and a test set"),
        (ConfigError, {"dataset": "digits"}, "dataset: a set of your own is tested on `test`"),
        (ConfigError, {"networks": ["mlp", lambda: Mine(16, 4)]}, r"gives \[2, 4\]"),
        (ConfigError, {"protocol": "fair"}, "chooses the learning rate on a validation split"),
        (ConfigError, {"protocol": "fast"}, "unknown evaluation protocol 'fast'"),
        (ConfigError, {"dsa": "corp"}, "unknown operator 'corp'"),
        (ConfigError, {"seed": -1}, "seed = -1"),
        (DataError, {"test": DataLoader(TEST)}, "test set: a DataLoader is no torch Dataset"),
        (DataError, {"source": [1, 2]}, "training set: a list is no torch Dataset"),
        (DataError, {"test": TensorDataset(torch.zeros(2, 1, 5, 5), torch.arange(2))}, r"test images \[1, 5, 5\]"),
        (DataError, {"test": TensorDataset(TEST.tensors[0], torch.rand(90, CLASSES).softmax(1))}, "must be int64"),
        (DataError, {"source": TensorDataset(OWN.tensors[0], OWN.tensors[1] - 1)}, "training set: labels lie in -1..1"),
    ],
)
def test_a_wrong_evaluation_of_an_own_set_is_refused(error, given, message, monkeypatch):
    def train_network(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr("condense.evaluation.train.train_network", train_network)
    with pytest.raises(error, match=message):
        own(**given)
