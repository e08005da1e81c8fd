from dataclasses import replace

import pytest
import torch
from problems import accuracies, blobs, make_condenser, make_problem

from condense import api, rng
from condense.comparison import baseline, training_set
from condense.config import Layer, check_baseline, resolve
from condense.evaluation import load_protocol
from condense.methods import DecoupledConfig
from condense.methods.kd_subset import KDSubsetConfig
from condense.teachers import hardness

SCORES = ["el2n", "grand", "forgetting"]


def made(tmp_path, name="kd_subset", ipc=4, seed=0, data=None, **values):
    condenser = make_condenser(name, **values)
    problem = make_problem(condenser, tmp_path, ipc=ipc, seed=seed, data=data)
    return condenser.distilled(condenser.init(problem), problem), problem, condenser


@pytest.mark.parametrize("seed", [0, 1])
def test_the_images_of_random(tmp_path, seed):
    ours, theirs = (made(tmp_path, name, seed=seed)[0] for name in ("kd_subset", "random"))
    assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)


def test_the_labels_are_the_teachers_logits_of_the_views(tmp_path):
    distilled, problem, _ = made(tmp_path)
    views = distilled.store.views
    for epoch in range(views.epochs):
        for k, places in enumerate(views.batches):
            with torch.no_grad():
                z = problem.pool[0].module(views.show(distilled.images, epoch, k).x)
            assert torch.equal(distilled.store.values[epoch, places], z.half())


@pytest.mark.parametrize("ipc", [1, 4])
def test_as_many_bytes_and_updates_as_rded_and_the_same_views(tmp_path, ipc):
    """Beside a method with the same labels only the images, and what is said of them, differ."""
    ours, theirs = (
        made(tmp_path, name, ipc=ipc, label_mix="mixup", label_batch=5)[0] for name in ("kd_subset", "rded")
    )
    assert ours.images.shape == theirs.images.shape and ours.images.dtype == theirs.images.dtype
    mine, other = ours.store.tensors(), theirs.store.tensors()
    assert mine.keys() == other.keys()
    for key in mine.keys() - {"values"}:
        assert torch.equal(mine[key], other[key]), key
    assert (mine["values"].shape, mine["values"].dtype) == (other["values"].shape, other["values"].dtype)
    assert (ours.store.weight, ours.store.group) == (theirs.store.weight, theirs.store.group)
    protocol = load_protocol("kd_small")
    steps = [training_set(set_).plan(protocol).steps(len(set_.images)) for set_ in (ours, theirs)]
    assert steps[0] == steps[1] == 3 * len(ours.store.views.batches)


def rows_of(distilled, problem):
    """Which training images they are."""
    real = problem.preprocessing(problem.data.train.images)
    rows = [int((real - image).abs().flatten(1).sum(1).argmin()) for image in distilled.images]
    assert torch.equal(real[rows], distilled.images)
    return rows


@pytest.mark.parametrize("keep", ["hard", "easy"])
@pytest.mark.parametrize("score", SCORES)
def test_the_most_extreme_of_each_class_in_order(tmp_path, score, keep):
    distilled, problem, condenser = made(tmp_path, score=score, keep=keep)
    rows = torch.tensor(rows_of(distilled, problem))
    assert problem.data.train.labels[rows].tolist() == [0] * 4 + [1] * 4 + [2] * 4 == distilled.labels.tolist()
    assert len(set(rows.tolist())) == 12
    (plan,) = condenser.config.plans("none")
    labels = problem.data.train.labels
    scores = hardness(
        score, plan, problem.inputs, labels, classes=3, seed=rng.address(0, "scores"), networks=2, epochs=3
    )
    for c in range(3):
        of_class = scores[labels == c].sort(descending=keep == "hard").values
        assert torch.equal(scores[rows[labels[rows] == c]], of_class[:4])


def test_ties_are_drawn(tmp_path, monkeypatch):
    """Two hard images of each class, the rest alike: these two first, then others with another seed."""

    def flat(score, plan, inputs, labels, **settings):  # noqa: ARG001
        scores = torch.zeros(len(labels))
        scores[-6:] = torch.inf
        return scores

    monkeypatch.setattr("condense.methods.kd_subset.hardness", flat)
    chosen = []
    for seed in (0, 0, 1):
        distilled, problem, _ = made(tmp_path, seed=seed, score="forgetting")
        rows = rows_of(distilled, problem)
        first = {row for c in range(3) for row in rows[4 * c : 4 * c + 2]}
        assert first == set(range(114, 120))
        chosen.append(rows)
    assert chosen[0] == chosen[1] != chosen[2]
    easy, problem, _ = made(tmp_path, score="forgetting", keep="easy")
    assert max(rows_of(easy, problem)) < 114


def test_a_larger_set_begins_with_a_smaller_one(tmp_path):
    large, small = (made(tmp_path, ipc=ipc, score="el2n")[0].images.unflatten(0, (3, ipc)) for ipc in (6, 2))
    assert torch.equal(large[:, :2], small)


def test_the_scoring_networks_are_no_teachers(tmp_path, monkeypatch):
    seeds = []

    def watched(score, plan, inputs, labels, *, seed, networks, epochs, **settings):  # noqa: ARG001
        seeds.append((seed, plan, networks, epochs))
        return torch.zeros(len(labels))

    monkeypatch.setattr("condense.methods.kd_subset.hardness", watched)
    _, problem, condenser = made(tmp_path, score="grand", seed=5)
    ((seed, plan, networks, epochs),) = seeds
    assert (plan, networks, epochs) == (condenser.config.plans(problem.augmentation.strategy)[0], 2, 3)
    assert plan.epochs == 5 and seed != problem.seed


@pytest.mark.parametrize(
    ("ipc", "alpha", "expected"), [(4, 0.3, 0.3), (4, 1.0, 1.0), (4, None, 0.9), (30, None, 0.25), (39, None, 0.1)]
)
def test_alpha_is_given_or_by_the_part_of_the_data_that_is_kept(tmp_path, ipc, alpha, expected):
    """Of 40 images in each class."""
    assert made(tmp_path, ipc=ipc, alpha=alpha)[0].store.weight == pytest.approx(expected)


def test_no_alpha_is_written_none():
    given = {"method": "kd_subset", "alpha": "none", "recipe": "none"}
    assert resolve([Layer("test", given)]).method.alpha is None


def values(distilled, problem):
    """Accuracies of students that play the labels back."""
    return accuracies(distilled, problem, "convnet:width=4,depth=2", replace(load_protocol("kd_small"), lr=0.02))


def test_students_learn_by_alpha(tmp_path):
    """At 0 they do not see what the teachers say, at 1 not the labels of the data; in between both."""
    heeded = {}
    for alpha in (0.0, 0.5, 1.0):
        distilled, problem, _ = made(tmp_path, alpha=alpha, label_epochs=8)
        says, store = values(distilled, problem), distilled.store
        other_values = replace(distilled, store=replace(store, values=store.values.roll(1, 2)))
        other_labels = replace(distilled, labels=distilled.labels.roll(4))
        heeded[alpha] = [values(other, problem) != says for other in (other_values, other_labels)]
    assert heeded == {0.0: [False, True], 0.5: [True, True], 1.0: [True, False]}


def test_it_is_a_baseline_with_the_teachers_and_labels_of_the_run():
    check_baseline("kd_subset")
    own = {"teachers": ["convnet:norm=batch"], "teacher_epochs": 7, "label_epochs": 9, "label_bn": "batch"}
    run = resolve([Layer("test", {"method": "sre2l", "baselines": ["kd_subset"], "recipe": "none", **own})])
    beside = baseline("kd_subset", run)
    shared = set(DecoupledConfig.model_fields) - {"iterations"}
    assert beside.method.model_dump(include=shared) == run.method.model_dump(include=shared)
    assert beside.method == KDSubsetConfig(**run.method.model_dump(include=shared))
    assert beside.method.iterations == 0


def test_networks_are_not_scored_later_than_they_are_trained():
    given = {"method": "kd_subset", "score": "el2n", "score_epochs": 30, "teacher_epochs": 20, "recipe": "none"}
    with pytest.raises(ValueError, match=r"score_epochs = 30: .* teacher_epochs = 20"):
        api.prepare(resolve([Layer("test", given)]))
    assert not KDSubsetConfig(teacher_epochs=19).misfits(1, 10, 0)  # random images are not scored


def test_a_class_with_too_few_images_is_refused():
    with pytest.raises(ValueError, match=r"ipc = 500: class .* only .* training images"):
        api.prepare(resolve([Layer("test", {"method": "kd_subset", "ipc": 500, "recipe": "none"})]))


def test_all_images_of_a_class_can_be_kept(tmp_path):
    distilled, problem, _ = made(tmp_path, ipc=5, data=blobs(per_class=5), score="el2n", alpha=None)
    assert len(set(rows_of(distilled, problem))) == 15 and distilled.store.weight == 0.1


def test_defaults_are_random_images_with_the_teachers_labels():
    c = KDSubsetConfig()
    assert (c.score, c.keep, c.alpha, c.iterations, c.score_networks, c.score_epochs) == (
        "random",
        "hard",
        1.0,
        0,
        10,
        20,
    )
    assert c.model_dump(include=set(DecoupledConfig.model_fields)) == DecoupledConfig().model_dump()
