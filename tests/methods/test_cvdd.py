from dataclasses import replace
from itertools import combinations

import pytest
import torch
from problems import make_condenser, make_problem

from condense import api
from condense.config import Layer, resolve
from condense.methods.cvdd import CVDDConfig
from condense.teachers import Teacher


def committee(problem, *accuracies):
    module = problem.pool[0].module
    return replace(problem, pool=tuple(Teacher(str(k), module, accuracy) for k, accuracy in enumerate(accuracies)))


def test_votes_are_the_softmax_of_the_accuracies_in_percent(tmp_path):
    condenser = make_condenser("cvdd")
    problem = committee(make_problem(condenser, tmp_path), 0.63, 0.685)
    votes = {voter.teacher.name: voter.weight for voter in condenser.committees(problem)[0]}
    assert votes["0"] == pytest.approx(0.25, abs=0.005) and votes["1"] == pytest.approx(0.75, abs=0.005)  # published
    expected = torch.tensor([63.0, 68.5]).div(5).softmax(0)
    assert list(votes.values()) == pytest.approx(expected.tolist())


def test_label_weights_are_the_published_ones(tmp_path):
    """Of the accuracies of the paper's CIFAR-10 committee."""
    condenser = make_condenser("cvdd")
    problem = committee(make_problem(condenser, tmp_path), 0.63, 0.653, 0.685, 0.676, 0.674)
    assert condenser.label_weights(problem) == pytest.approx([0.14, 0.18, 0.24, 0.22, 0.22], abs=0.006)
    assert sum(condenser.label_weights(problem)) == pytest.approx(1)


def test_equal_priors_are_the_mean(tmp_path):
    condenser, equal = make_condenser("cvdd"), make_condenser("cvdd", vote="equal")
    problem = make_problem(condenser, tmp_path)
    problem = replace(problem, pool=tuple(replace(teacher, accuracy=0.7) for teacher in problem.pool))
    images = condenser.init(problem)["images"]
    block, plain = condenser.blocks(problem)[0], make_condenser("sre2l", view="whole").blocks(problem)[0]
    losses = [condenser.loss(problem, each, images[each.rows], 0, 0) for each in (block, plain)]
    torch.testing.assert_close(*losses)
    one, other = (each.distilled({"images": images}, problem).store.values for each in (condenser, equal))
    torch.testing.assert_close(one, other)


def test_every_pair_has_its_turn_the_most_accurate_first(tmp_path):
    condenser = make_condenser("cvdd")
    problem = committee(make_problem(condenser, tmp_path), 0.1, 0.5, 0.2, 0.4, 0.3)
    problem = replace(problem, ipc=20)
    pairs = [tuple(sorted(int(v.teacher.name) for v in block.voters)) for block in condenser.blocks(problem)]
    assert pairs[0] == (1, 3) and sorted(pairs[:10]) == list(combinations(range(5), 2)) and pairs[10:] == pairs[:10]
    ((*everyone,),) = make_condenser("cvdd", voters=9).committees(problem)
    assert len(everyone) == 5


def test_labels_are_the_weighted_sum_by_batch_statistics(tmp_path):
    condenser = make_condenser("cvdd", label_batch=6, label_group=3)
    problem = make_problem(condenser, tmp_path)
    problem = replace(
        problem, pool=tuple(replace(t, accuracy=a) for t, a in zip(problem.pool, (0.6, 0.7), strict=True))
    )
    images = condenser.init(problem)["images"]
    store = condenser.distilled({"images": images}, problem).store
    x, weights = store.views.show(images, 0, 0).x, torch.tensor([60.0, 70.0]).div(10).softmax(0)
    expected = sum(
        w * torch.cat([teacher.logits(half, bn="batch") for half in (x[:3], x[3:])])
        for w, teacher in zip(weights, problem.pool, strict=True)
    )
    torch.testing.assert_close(store.values[0].float(), expected, atol=2e-3, rtol=2e-3)
    assert store.group == 3


def test_without_held_out_images_there_are_no_priors():
    given = {"method": "cvdd", "recipe": "none", "validation": 0.0, "teachers": ["resnet18:norm=batch"]}
    with pytest.raises(ValueError, match=r"vote = 'prior' weighs teachers .* validation"):
        api.prepare(resolve([Layer("test", given)]))
    api.prepare(resolve([Layer("test", given | {"vote": "equal"})]))


def test_defaults_are_those_of_sre2l_plus_plus():
    c = CVDDConfig()
    assert (c.iterations, c.lr_img, c.r_bn, c.jitter, c.view, c.init) == (4000, 0.25, 0.01, 4, "resized", "medium")
    assert (c.label_batch, c.label_group, c.label_bn, c.label_epochs) == (16, 8, "batch", 300)
    plan = c.plans("flip")[0]
    assert (plan.optimizer, plan.lr, plan.weight_decay, plan.batch, plan.epochs) == ("adam", 1e-3, 1e-4, 512, 200)
    assert len(c.teachers) == 5
