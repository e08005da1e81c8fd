"""The loop that recovers images from teachers, by way of SRe2L."""

import math
from dataclasses import replace

import pytest
import torch
from problems import make_condenser, make_problem, relative_error
from torch.nn import functional as F

from condense.teachers import Teacher

WITHOUT_VIEW = {"jitter": 0, "view": "whole"}


def test_one_iteration_by_hand(tmp_path):
    """Each image index in turn, with torch's Adam, hooks on the batch norms, and clamping by hand."""
    condenser = make_condenser("sre2l", **WITHOUT_VIEW, iterations=8, lr_img=0.3, r_bn=0.7)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, ipc=3)
    state = condenser.init(problem)
    images = [state["images"][index::3].clone().requires_grad_() for index in range(3)]
    black, white = (problem.preprocessing(torch.full((1, 1, 8, 8), pixel)).double() for pixel in (0.0, 1.0))
    module, labels = problem.pool[0].module, torch.arange(3)
    seen = []
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.register_forward_hook(lambda norm, inputs, _output: seen.append((norm, inputs[0])))
    for block in images:
        adam = torch.optim.Adam([block], lr=0.3, betas=(0.5, 0.9), eps=1e-8)
        for iteration in range(4):
            adam.param_groups[0]["lr"] = 0.15 * (1 + math.cos(math.pi * iteration / 8))
            seen.clear()
            loss = F.cross_entropy(module(block), labels)
            for number, (norm, x) in enumerate(seen):
                over = x.transpose(0, 1).flatten(1)
                apart = (over.mean(1) - norm.running_mean).norm() + (
                    over.var(1, correction=0) - norm.running_var
                ).norm()
                loss = loss + 0.7 * (10 if number == 0 else 1) * apart
            adam.zero_grad()
            loss.backward()
            adam.step()
            block.data.clamp_(black, white)
    for iteration in range(4):
        condenser.step(state, problem, iteration)
    for index, block in enumerate(images):
        assert relative_error(state["images"][index::3], block.detach()) < 1e-9


def test_the_gradient_of_the_loss_by_differences(tmp_path):
    """Through parts, mirrors and shifts, for two teachers, in float64."""
    values = {"view": "resized", "jitter": 3, "r_bn": 0.5, "teachers": ("convnet:width=4,depth=2,norm=batch",) * 2}
    condenser = make_condenser("sre2l", **values)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    state, draws = condenser.init(problem), torch.Generator().manual_seed(0)
    for iteration in range(3):
        _, gradient = condenser.gradient(state, problem, iteration)
        direction = torch.randn(gradient.shape, generator=draws, dtype=torch.float64)
        moved = [{"images": state["images"] + h * direction} for h in (1e-6, -1e-6)]
        ends = [2 * condenser.gradient(each, problem, iteration)[0] for each in moved]  # of two blocks
        assert float(ends[0] - ends[1]) / 2e-6 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


@pytest.mark.parametrize("class_batch", [1, 2])
def test_blocks_hold_each_image_once_and_one_of_a_class(class_batch, tmp_path):
    condenser = make_condenser("sre2l", class_batch=class_batch)
    problem = make_problem(condenser, tmp_path, ipc=4)
    blocks = condenser.blocks(problem)
    assert torch.cat([block.rows for block in blocks]).sort().values.tolist() == list(range(12))
    for block in blocks:
        assert len(block.rows) <= class_batch and len(set(block.labels.tolist())) == len(block.rows)
        assert (block.rows // 4 == block.labels).all() and len({int(row) % 4 for row in block.rows}) == 1


def test_a_block_does_not_depend_on_those_after_it(tmp_path):
    """As if they were made one after another, which published code does."""
    condenser = make_condenser("sre2l", init="real")
    ends = []
    for ipc in (1, 3):
        problem = make_problem(condenser, tmp_path, ipc=ipc)
        state = condenser.init(problem)
        state["images"][::ipc] = problem.preprocessing(problem.data.train.images[:3])
        for iteration in range(3):
            condenser.step(state, problem, iteration)
        ends.append(state["images"][::ipc])
    assert torch.equal(*ends)


def test_images_stay_within_what_pixels_show(tmp_path):
    condenser = make_condenser("sre2l", lr_img=3.0)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    assert float(problem.preprocessing.inverse(state["images"]).min()) < 0
    condenser.step(state, problem, 0)
    pixels = problem.preprocessing.inverse(state["images"])
    assert float(pixels.min()) > -1e-6 and float(pixels.max()) < 1 + 1e-6


def test_the_rate_and_the_curriculum_of_views():
    condenser = make_condenser("sre2l", iterations=10, lr_img=0.2, view="resized", view_area=0.08, view_easy=0.5)
    assert condenser.rate(0) == 0.2 and condenser.rate(5) == pytest.approx(0.1)
    smallest = [condenser.smallest(iteration) for iteration in range(10)]
    assert smallest[0] == 1 and smallest[5:] == [0.08] * 5 and smallest == sorted(smallest, reverse=True)
    assert make_condenser("sre2l", view="resized").smallest(0) == 0.08
    assert condenser.smallest(2) == pytest.approx(0.08 + 0.92 * (1 + math.cos(math.pi * 2 / 5)) / 2)


def test_the_view_is_one_for_the_whole_block(tmp_path):
    condenser = make_condenser("sre2l", view="resized", jitter=3)
    problem = make_problem(condenser, tmp_path)
    same = problem.inputs[torch.zeros(5, dtype=torch.int64)]
    shown = [condenser.view(same, 3, problem.rng("view", k), mirrored=True) for k in range(8)]
    assert all(torch.equal(one, views[0]) for views in shown for one in views)
    assert not any(torch.equal(shown[0], other) for other in shown[1:])


def test_without_mirroring_nothing_is_mirrored(tmp_path):
    condenser = make_condenser("sre2l", view="resized", view_area=1.0, jitter=0)
    problem = make_problem(condenser, tmp_path)
    x = problem.inputs[torch.arange(4)]
    assert all(torch.equal(condenser.view(x, 0, problem.rng("v", k), mirrored=False), x) for k in range(10))
    seen = [condenser.view(x, 0, problem.rng("v", k), mirrored=True) for k in range(10)]
    assert {torch.equal(view, x) for view in seen} == {True, False}
    assert all(torch.equal(view, x) or torch.equal(view, x.flip(3)) for view in seen)


def test_r_bn_alone_decides_whether_statistics_count(tmp_path, monkeypatch):
    condenser = make_condenser("sre2l", r_bn=0.0)
    problem = make_problem(condenser, tmp_path)

    def loss(r_bn):
        condenser = make_condenser("sre2l", r_bn=r_bn)
        return condenser.step(condenser.init(problem), problem, 0)["loss"]

    before = loss(0.0)
    describe = Teacher.describe
    monkeypatch.setattr(Teacher, "describe", lambda teacher, x: (describe(teacher, x)[0], describe(teacher, x)[1] + 7))
    assert loss(0.0) == before and loss(1.0) > before + 7


def test_teachers_without_batch_norm_are_refused(tmp_path):
    condenser = make_condenser("sre2l", teachers=("convnet:width=4,depth=2",))
    problem = make_problem(condenser, tmp_path)
    with pytest.raises(ValueError, match="has no batch norm"):
        condenser.step(condenser.init(problem), problem, 0)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("sre2l", r"^sre2l: logits of epoch 1, batch 1, are not finite"),
        ("nrrdd", r"^nrrdd: distances of epoch 1, batch 1, are not finite"),
        ("infer", r"^infer, iteration 30: labels not finite"),
    ],
)
def test_labels_that_are_not_finite_name_their_method(method, words, tmp_path):
    condenser = make_condenser(method)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    with torch.no_grad():
        problem.pool[0].module.classifier.bias.fill_(torch.inf)
    with pytest.raises(ArithmeticError, match=words):
        condenser.distilled(state, problem)


@pytest.mark.parametrize("start", ["noise", "real", "easy", "medium", "hard"])
def test_starts(start, tmp_path):
    condenser = make_condenser("sre2l", init=start)
    problem = make_problem(condenser, tmp_path)
    images = condenser.init(problem)["images"]
    assert images.shape == (6, 1, 8, 8) and images.isfinite().all()
    again = condenser.init(replace(problem))["images"]
    assert torch.equal(images, again)
