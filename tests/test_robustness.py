"""A set under other augmentations and labels: which evaluations are made, and the numbers that come of them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from short import short_protocols

from condense import api, comparison, robustness
from condense.artifact import DatasetRecord, MethodRecord, load_artifact, save_artifact
from condense.evaluation import Evaluation, load_protocol
from condense.evaluation import TestSet as HeldOut
from condense.evaluation.scores import ars, lrs
from condense.methods import METHODS
from condense.robustness import AUGMENTATIONS, Robustness, Row, under
from condense.synthetic import DistilledSet
from condense.text import seal

# the numbers, from evaluations made up


def evaluation(*values):
    mean = sum(values) / len(values)
    return Evaluation("mlp", "fair", len(values), mean, 0.1, values, 0.01, 3, "dsa", 0, 0, 1.0)


def rows(training, **accuracies):
    return tuple(
        Row(training, "hard", name, evaluation(value - 0.01, value + 0.01)) for name, value in accuracies.items()
    )


def made_up(own="dsa", hard=None, transfer=()):
    ours = rows("dm", dsa=0.60, none=0.50, standard=0.66, crop_flip=0.54)
    found = next(row for row in ours if row.augmentation == own)
    return Robustness(
        own=own,
        ours=ours,
        random=rows("random", dsa=0.45, none=0.40, standard=0.42, crop_flip=0.41),
        hard=hard or found,
        full=Row("full data", "hard", own, evaluation(0.90, 0.80)),
        transfer=transfer,
    )


def test_the_scores_are_those_of_the_definitions():
    found = made_up()
    assert found.hlr[0] == pytest.approx(0.85 - 0.60) and found.ior[0] == pytest.approx(0.15)
    assert found.lrs == pytest.approx(lrs(real_hard=0.85, syn_hard=0.60, syn_any=0.60, rdm_any=0.45))
    assert found.ars == pytest.approx(ars(syn_aug=0.60, rdm_aug=0.45, syn_naug=0.50, rdm_naug=0.40))
    # pairs: 0.90 - 0.59 and 0.80 - 0.61, standard error 0.06, t(0.975, 1) = 12.706; the random pairs differ by nothing
    assert found.hlr[1] == pytest.approx(12.706 * 0.06, rel=1e-4) and found.ior[1] == pytest.approx(0, abs=1e-12)


def test_the_numbers_of_dc_bench():
    others = (*rows("dm", dsa=0.30), *rows("dm", dsa=0.40))
    found = made_up(transfer=others)
    assert found.best_augmentation == pytest.approx(0.66)
    assert found.mean_augmentation == pytest.approx((0.60 + 0.50 + 0.66 + 0.54) / 4)
    assert found.mean_transfer == pytest.approx(0.35) and made_up().mean_transfer is None
    assert [e.mean for e in found.evaluations] == pytest.approx([0.60, 0.30, 0.40])


def test_a_protocol_without_augmentation_is_compared_with_dsa():
    found = made_up(own="none")
    assert found.ars == pytest.approx(ars(syn_aug=0.60, rdm_aug=0.45, syn_naug=0.50, rdm_naug=0.40))
    assert found.lrs == pytest.approx(lrs(real_hard=0.85, syn_hard=0.50, syn_any=0.50, rdm_any=0.40))


def test_hard_labels_count_where_the_sets_own_are_soft():
    hard = Row("dm", "hard", "dsa", evaluation(0.20, 0.20))
    found = made_up(hard=hard)
    assert found.hlr[0] == pytest.approx(0.65)
    assert found.lrs == pytest.approx(lrs(real_hard=0.85, syn_hard=0.20, syn_any=0.60, rdm_any=0.45))
    assert len(found.rows) == len(made_up().rows) + 1 == 10 and hard in found.rows


def test_another_augmentation_changes_that_alone():
    quick, idc = load_protocol("quick"), load_protocol("idc1000")
    assert under(quick, "dsa") is quick and under(idc, "composed") is idc
    assert under(quick, "standard") == replace(quick, augmentation="standard")
    assert under(idc, "none") == replace(idc, augmentation="none", cutmix=0.0)
    assert under(replace(quick, mixup=0.8), "none") == replace(quick, augmentation="none")


# the evaluations, on digits


@pytest.fixture(scope="module", autouse=True)
def short(tmp_path_factory):
    names = {"quick": {"epochs": 2, "full_data_epochs": 1}, "fair": {"epochs": 2, "full_data_epochs": 1}}
    names |= {"idc1000": {"epochs": 1, "full_data_epochs": 1}}
    with short_protocols(tmp_path_factory.mktemp("cache"), names):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = {"network": "mlp", "baselines": (), "full_data": False, "protocol": "quick"}
    return api.distill("herding", 1, out=tmp_path_factory.mktemp("made") / "run", **settings).artifact


@pytest.fixture
def artifact(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


@pytest.fixture
def soft(made, tmp_path):
    """The same images with labels of probability 0.91."""
    loaded = load_artifact(made)
    labels = 0.9 * torch.nn.functional.one_hot(loaded.labels, 10).float() + 0.01
    return save_artifact(
        tmp_path / "soft",
        DistilledSet(loaded.images, labels),
        preprocessing=loaded.preprocessing,
        classes=loaded.classes,
        method=MethodRecord(name="herding", ipc=1, citation=""),
        dataset=DatasetRecord(**loaded.manifest.dataset.model_dump()),
        config=loaded.manifest.config,
        provenance={},
    )


@pytest.fixture
def trained(monkeypatch):
    """What is evaluated: the name, labels' dimensions and number of images of each training set."""
    seen = []
    original = comparison.evaluate

    def watched(training, test, network, *, protocol, **settings):
        seen.append((network, protocol.augmentation, training.labels.ndim, len(training)))
        return original(training, test, network, protocol=protocol, **settings)

    monkeypatch.setattr(comparison, "evaluate", watched)
    return seen


def shape(found):
    return [(row.training, row.labels, row.augmentation, row.evaluation.network) for row in found.rows]


def test_every_row_is_there_once_and_comes_from_the_cache_the_second_time(artifact, trained, monkeypatch):
    reads = []
    accuracy = HeldOut.accuracy

    def counted(self, predict, batch=512):
        reads.append(len(self))
        return accuracy(self, predict, batch)

    monkeypatch.setattr(HeldOut, "accuracy", counted)
    found = api.evaluate_robustness(artifact, protocol="fair", eval_networks=["lenet", "mlp"])
    order = ("dsa", "none", "standard", "crop_flip")
    assert shape(found) == [
        *(("herding", "hard", name, "mlp") for name in order),
        *(("random", "hard", name, "mlp") for name in order),
        ("full data", "hard", "dsa", "mlp"),
        ("herding", "hard", "dsa", found.transfer[0].evaluation.network),
    ]
    assert len(trained) == 10 and {count for *_, count in trained} == {10, 1295}
    test, validation = 359, 143
    assert reads == ([validation] * 4 + [test] * 2) * 10
    assert all(row.evaluation.pilots and row.evaluation.n == 2 for row in found.rows)
    assert found.full.evaluation.updates == 6 and found.ours[0].evaluation.updates == 2

    manifest = artifact / "manifest.json"
    records = json.loads(manifest.read_text(encoding="utf-8"))["evaluations"]
    assert [(r["protocol"], r["augmentation"].count("_") > 2) for r in records[1:]] == [("fair", True)] * 2
    assert api.evaluate_robustness(artifact, protocol="fair", eval_networks=["lenet", "mlp"]) == found
    assert len(trained) == 10
    assert json.loads(manifest.read_text(encoding="utf-8"))["evaluations"] == records


def test_the_digits_are_never_mirrored(artifact):
    found = api.evaluate_robustness(artifact, protocol="quick")
    names = {row.augmentation: row.evaluation.augmentation for row in found.ours}
    assert names["standard"] == "standard without flip" and names["crop_flip"] == "crop_flip without flip"
    assert "flip" not in names["dsa"] and names["none"] == "none"


def test_a_protocol_with_another_augmentation_gets_a_row_for_it(artifact):
    found = api.evaluate_robustness(artifact, protocol="idc1000")
    assert [row.augmentation for row in found.ours] == ["composed", *AUGMENTATIONS]
    assert found.own == "composed" == found.full.augmentation and found.evaluations[0] == found.ours[0].evaluation


def test_soft_labels_are_made_hard_and_random_images_without_such_are_said_to_be_hard(
    soft, trained, caplog, monkeypatch
):
    monkeypatch.setattr(robustness, "SOFT_RANDOM", "no such method")
    found = api.evaluate_robustness(soft, protocol="quick")
    assert {row.labels for row in found.ours} == {"soft"} and found.hard.labels == "hard"
    assert {row.labels for row in found.random} == {"hard"}
    assert "the random images beside it have hard ones" in caplog.text
    assert [ndim for _, _, ndim, count in trained if count == 10][:5] == [2, 2, 2, 2, 1]


@pytest.fixture
def random_soft(monkeypatch):
    """Stands for the baseline with soft labels: random images, all of which are any class."""

    class RandomSoft(METHODS["random"]):
        name = "random_soft"

        def distilled(self, state, problem):  # noqa: ARG002
            return DistilledSet(state["images"], torch.full((len(state["images"]), 10), 0.1))

    monkeypatch.setitem(METHODS, "random_soft", RandomSoft)


@pytest.mark.usefixtures("random_soft")
def test_random_images_get_soft_labels_where_a_teacher_can_give_them(soft, made):
    found = api.evaluate_robustness(soft, protocol="quick")
    assert {(row.training, row.labels) for row in found.random} == {("random_soft", "soft")}
    found = api.evaluate_robustness(made, protocol="quick")
    assert {(row.training, row.labels) for row in found.random} == {("random", "hard")}


@pytest.mark.usefixtures("random_soft")
def test_a_teacher_of_another_preprocessing_is_not_asked(soft, monkeypatch):
    load = api.load_artifact

    def shifted(path):
        found = load(path)
        values = found.preprocessing.values
        moved = replace(found.preprocessing, values=values | {"mean": values["mean"] + 1})
        return replace(found, preprocessing=moved)

    monkeypatch.setattr(api, "load_artifact", shifted)
    assert {row.labels for row in api.evaluate_robustness(soft, protocol="quick").random} == {"hard"}


def test_more_images_than_a_class_has_are_refused(artifact, trained):
    manifest = artifact / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["method"]["ipc"] = 500
    manifest.write_bytes(seal(content, indent=2))
    with pytest.raises(ValueError, match="ipc = 500: class '8' of digits has only 125 training images"):
        api.evaluate_robustness(artifact, protocol="quick")
    assert not trained
