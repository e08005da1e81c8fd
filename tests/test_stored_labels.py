"""A set with a label store from disk to the record of its evaluation."""

import json
from dataclasses import replace

import pytest
import torch
from short import short_protocols

from condense import api, comparison
from condense.artifact import DatasetRecord, MethodRecord, load_artifact, read_manifest, save_artifact
from condense.cli.report import manifest_text
from condense.comparison import artifact_key
from condense.errors import ConfigError
from condense.rng import generator
from condense.synthetic import DistilledSet, LabelStore, draw_views


@pytest.fixture(scope="module", autouse=True)
def short(tmp_path_factory):
    with short_protocols(tmp_path_factory.mktemp("cache"), {"quick": {"epochs": 2}, "kd_small": {"epochs": 2}}):
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    settings = {"network": "mlp", "baselines": (), "full_data": False, "protocol": "quick"}
    return api.distill("herding", 1, out=tmp_path_factory.mktemp("made") / "run", **settings).artifact


@pytest.fixture
def stored(plain, tmp_path):
    """The same images with labels for 3 epochs of views in batches of 4."""

    def save(name="stored", seed=0, **settings):
        loaded = load_artifact(plain)
        views = draw_views(
            10,
            8,
            epochs=3,
            batch=4,
            crop="resized",
            smallest=0.5,
            mirrored=False,
            mix="cutmix",
            draws=lambda epoch: generator(seed, "views", epoch),
        )
        values = 5 * torch.nn.functional.one_hot(loaded.labels[views.order], 10).half()
        return save_artifact(
            tmp_path / name,
            replace(loaded.stored, store=LabelStore(views, "logits", values, **settings)),
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            method=MethodRecord(name="herding", ipc=1, citation=""),
            dataset=DatasetRecord(**loaded.manifest.dataset.model_dump()),
            config=loaded.manifest.config,
            provenance={},
        )

    return save


def test_the_protocol_decides_whether_it_is_played_back(stored, plain):
    folder = stored()
    (played,) = api.evaluate_artifact(folder, protocol="kd_small")
    assert (played.epochs, played.updates, played.augmentation) == (3, 9, "store")
    (hard,) = api.evaluate_artifact(folder, protocol="quick")
    assert hard == api.evaluate_artifact(plain, protocol="quick")[0] and hard.epochs == 2
    (views_alone,) = api.evaluate_artifact(plain, protocol="kd_small")
    assert (views_alone.epochs, views_alone.updates) == (2, 2)
    assert views_alone.augmentation == "crop_flip without flip"
    first, _ = json.loads((folder / "manifest.json").read_text())["evaluations"]
    assert (first["protocol"], first["augmentation"], first["epochs"]) == ("kd_small", "store", 3)


def test_another_store_is_another_set_for_the_cache(stored, plain):
    sets = [plain, stored(), stored("b", seed=1), stored("c", weight=0.5), stored("d", group=2)]
    keys = [artifact_key(read_manifest(path)) for path in sets]
    assert len({key["set"] for key in keys}) == 1
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    assert artifact_key(read_manifest(stored("again"))) == keys[1]
    assert set(keys[0]) == {"method", "set"}  # as it was before there were stores


def test_other_augmentations_are_refused_before_any_work(stored, monkeypatch):
    folder = stored()
    monkeypatch.setattr(comparison, "evaluate", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(ConfigError, match=r"'kd_small' trains on the views of the set's label store.*--protocol fair"):
        api.evaluate_robustness(folder, protocol="kd_small")


def test_a_summary_of_the_set_names_it(stored, plain):
    text = manifest_text(read_manifest(stored(group=2)))
    assert "logits for 3 epochs, batches of 4, groups of 2, weight 1" in text
    assert "store" not in manifest_text(read_manifest(plain))


def test_a_set_made_in_memory_brings_its_store_along(stored):
    loaded = load_artifact(stored())
    training = comparison.training_set(loaded)
    assert training.store is loaded.store is comparison.training_set(loaded.stored).store is not None
    assert comparison.training_set(DistilledSet(loaded.images, loaded.labels)).store is None
