"""The test set decides nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from condense import api
from condense.artifact import read_manifest
from condense.data import load_dataset
from condense.evaluation import TestSet, load_protocol, protocols

SETTINGS = {
    "network": "convnet:width=4,depth=2",
    "num_experts": 1,
    "max_start_epoch": 1,
    "expert_epochs": 1,
    "iterations": 3,
    "syn_steps": 2,
    "eval_every": 2,
    "eval_repeats": 2,
    "protocol": "quick",
    "baselines": (),
    "full_data": False,
}


def lines(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def write(path, data, test_labels):
    arrays = {"x_train": data.train.images, "y_train": data.train.labels, "x_test": data.test.images}
    np.savez(path, y_test=test_labels, **{name: tensor.numpy() for name, tensor in arrays.items()})


def test_other_test_labels_give_the_same_set(tmp_path, monkeypatch):
    """The images of a run and its validation accuracies are the same; only the last number moves."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    data = load_dataset("digits", validation=0)
    results = []
    for name, labels in (("true", data.test.labels), ("wrong", (data.test.labels + 1) % 10)):
        write(tmp_path / f"{name}.npz", data, labels.numpy())
        results.append(api.distill("ftd", 1, out=tmp_path / name, dataset=f"npz:{tmp_path}/{name}.npz", **SETTINGS))
    sets = [(result.artifact / "data.safetensors").read_bytes() for result in results]
    assert sets[0] == sets[1]
    logs = [lines(result.run) for result in results]
    assert logs[0] == logs[1] and "validation_accuracy" in logs[0][1]
    assert results[0].evaluations[0].mean != results[1].evaluations[0].mean


@pytest.mark.parametrize("method", ["ftd", "datm", "ast"])
def test_the_test_set_is_read_once_for_each_network(method, tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    test, reads = load_dataset("digits").test, []
    accuracy = TestSet.accuracy

    def counted(self, predict, batch=512):
        if torch.equal(self.labels, test.labels):
            reads.append(len(self))
        return accuracy(self, predict, batch)

    monkeypatch.setattr(TestSet, "accuracy", counted)
    result = api.distill(method, 1, out=tmp_path / "run", **SETTINGS)
    assert reads == [len(test)] * SETTINGS["eval_repeats"]
    assert api.resume(result.run) == result
    assert len(reads) == SETTINGS["eval_repeats"]


def test_a_run_chooses_its_rates_on_validation_images_alone(tmp_path, monkeypatch):
    """With other test labels the set, every baseline and the full data are trained with the same rates."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    brief = replace(load_protocol("fair"), epochs=5, full_data_epochs=1)
    monkeypatch.setattr(protocols, "load_protocols", lambda: {"fair": brief})
    test, reads = load_dataset("digits").test, []
    accuracy = TestSet.accuracy

    def counted(self, predict, batch=512):
        reads.append("test" if torch.equal(self.images, test.images) else "validation")
        return accuracy(self, predict, batch)

    monkeypatch.setattr(TestSet, "accuracy", counted)
    data = load_dataset("digits", validation=0)
    settings = {"network": "mlp", "protocol": "fair", "eval_repeats": 2, "baselines": ("random",)}
    choices = []
    for name, labels in (("true", data.test.labels), ("wrong", (data.test.labels + 1) % 10)):
        write(tmp_path / f"{name}.npz", data, labels.numpy())
        result = api.distill("herding", 1, out=tmp_path / name, dataset=f"npz:{tmp_path}/{name}.npz", **settings)
        made = [*result.evaluations, *(found for each in result.baselines.values() for found in each)]
        choices.append([(evaluation.lr, evaluation.pilots) for evaluation in made])
        (recorded,) = read_manifest(result.artifact).evaluations
        assert (recorded.lr, [pilot["lr"] for pilot in recorded.pilots]) == (made[0].lr, list(brief.lrs))
    assert choices[0] == choices[1] and len(choices[0]) == 3
    assert reads == (["validation"] * 4 + ["test"] * 2) * 6


@pytest.mark.parametrize("key", ["iterations", "dsa", "lr_img"])
def test_an_evaluation_takes_no_key_of_the_distillation(key, tmp_path):
    with pytest.raises(ValueError, match=f"unknown key of an evaluation '{key}'"):
        api.evaluate_artifact(tmp_path, **{key: 1})
