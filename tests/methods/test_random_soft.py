import csv

import numpy as np
import pytest
import torch
from problems import make_condenser, make_problem
from torch.nn.utils import vector_to_parameters

import condense
from condense.artifact import export
from condense.networks import create


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run on digits, as users start it."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    small = {"network": "convnet:width=4", "teacher_epochs": 1, "eval_repeats": 1, "baselines": []}
    return condense.distill("random_soft", 1, out=tmp_path / "run", full_data=False, **small)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_images_of_random(tmp_path, seed):
    sets = []
    for name in ("random", "random_soft"):
        condenser = make_condenser(name)
        problem = make_problem(condenser, tmp_path, ipc=4, seed=seed)
        sets.append(condenser.distilled(condenser.init(problem), problem))
    assert torch.equal(sets[0].images, sets[1].images)


def test_the_labels_are_the_softmax_of_the_teacher(tmp_path):
    """An ordinary module with the teacher's parameters, one image at a time, and numpy's exponential."""
    condenser = make_condenser("random_soft", teacher_epochs=2)
    problem = make_problem(condenser, tmp_path, ipc=4)
    made = condenser.distilled(condenser.init(problem), problem)
    module = create(problem.network.name, channels=1, size=8, classes=3).eval()
    vector_to_parameters(problem.teacher, module.parameters())
    with torch.no_grad():
        logits = torch.cat([module(image[None]) for image in made.images]).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(made.labels.numpy(), expected, atol=1e-6)
    assert made.labels.max() < 0.999 and not made.labels.requires_grad  # soft, and no graph is kept


def test_soft_labels_reach_the_artifact_its_exports_and_the_evaluation(made, tmp_path):
    artifact = condense.load(made.artifact)
    assert artifact.manifest.labels.kind == "soft" and artifact.labels.shape == (10, 10)
    assert condense.evaluate(made.artifact)[0].values == made.evaluations[0].values
    assert len(condense.load(made.artifact).manifest.evaluations) == 2

    for format in ("pt", "npz", "png"):
        export(artifact, tmp_path / format, format)
    assert torch.equal(torch.load(tmp_path / "pt", weights_only=True)["labels"], artifact.labels)
    np.testing.assert_array_equal(np.load(tmp_path / "npz")["labels"], artifact.labels.numpy())
    with (tmp_path / "png" / "labels.csv").open(newline="") as file:
        rows = [[float(row[f"p{k}"]) for k in range(10)] for row in csv.DictReader(file)]
    np.testing.assert_array_equal(np.array(rows, np.float32), artifact.labels.numpy())
