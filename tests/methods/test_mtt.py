import math

import pytest
import torch
from problems import make_condenser, make_problem, relative_error
from torch.nn import functional as F

from condense.methods.mtt import MTTConfig, inner_batches, views_of
from condense.synthetic import decode


@pytest.mark.parametrize("views", [{}, {"factor": 2}, {"flip": True}, {"factor": 2, "flip": True}], ids=str)
def test_one_iteration_against_the_papers_algorithm(views, tmp_path):
    """Algorithm 1 written out with a full graph, per tensor, on the draws of the same addresses.

    With views on the images that are stored, one after another: its cells, and the mirror image of each.
    """
    condenser = make_condenser("mtt", batch_syn=4, syn_steps=4, lr_lr=1e-5, **views)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, dsa="crop_flip_rotate")
    state = condenser.init(problem)
    (segment,) = condenser.segments(problem, 3)
    start, target = segment.start, segment.target
    assert segment.epoch in (0, 1)
    images = state["images"].clone().requires_grad_()
    lr = torch.tensor(condenser.config.lr_teacher, dtype=torch.float64, requires_grad=True)

    theta = {name: p.clone().requires_grad_() for name, p in problem.network.split(start).items()}
    shown, labels = [], []
    for image, label in zip(images, state["labels"], strict=True):
        for cell in decode(image[None], 2) if "factor" in views else (image,):
            shown += [cell, cell.flip(2)] if "flip" in views else [cell]
            labels += [label, label] if "flip" in views else [label]
    shown, labels = torch.stack(shown), torch.stack(labels)
    for step in condenser.inner_steps(len(images), problem, problem.rng("inner", 3)):
        x, y = step.augment(shown[step.index]), labels[step.index]
        flat = torch.cat([p.flatten() for p in theta.values()])
        loss = F.nll_loss(F.log_softmax(problem.network.logits(flat, x), 1), y)
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        theta = {name: p - lr * g for (name, p), g in zip(theta.items(), gradients, strict=True)}
    targets, starts = problem.network.split(target), problem.network.split(start)
    above = sum(((theta[name] - targets[name]) ** 2).sum() for name in theta)
    below = sum(((starts[name] - targets[name]) ** 2).sum() for name in theta)
    matching = above / below
    d_images, d_lr = torch.autograd.grad(matching, (images, lr))

    before = {key: tensor.clone() for key, tensor in state.items()}
    metrics = condenser.step(state, problem, 3)
    assert metrics["loss"] == pytest.approx(float(matching.detach()), rel=1e-10)
    moved = (before["images"] - state["images"]) / condenser.config.lr_img
    assert relative_error(moved, d_images) < 1e-9
    # The learned rate moves as published, a <- a - lr_lr dL/da, to first order in lr_lr, and stays positive.
    a, published = math.exp(float(state["log_lr"])), 0.03 - 1e-5 * float(d_lr)
    assert a - 0.03 == pytest.approx(published - 0.03, rel=0.05)


def test_an_update_averages_over_its_segments(tmp_path):
    """Loss, image step and rate step of K = 3 are the means of those of its three segments, one at a time."""
    several, one = make_condenser("mtt", experts_per_step=3, lr_img=1.0), make_condenser("mtt", lr_img=1.0)
    problem = make_problem(several, tmp_path, dtype=torch.float64)
    start, segments = several.init(problem), several.segments(problem, 5)
    draws = problem.rng("inner", 5)
    steps = [one.inner_steps(len(start["images"]), problem, draws) for _ in segments]
    alone = [one.unroll(start, problem, segments[k], start["images"], steps[k]) for k in range(3)]
    state = {key: tensor.clone() for key, tensor in start.items()}
    metrics = several.step(state, problem, 5)
    assert metrics["loss"] == pytest.approx(sum(float(found.loss) for found in alone) / 3, rel=1e-12)
    assert metrics["start_epoch"] == sum(segment.epoch for segment in segments) / 3
    assert relative_error(start["images"] - state["images"], sum(found.images for found in alone) / 3) < 1e-12
    slope = sum(float(found.lr) for found in alone) / 3
    assert float(state["log_lr.momentum"]) == pytest.approx(slope * several.config.lr_teacher, rel=1e-12)


def test_segments_are_drawn_for_themselves(tmp_path):
    """The first is that of a run with one segment; all experts and start epochs come in every place."""
    several, one = make_condenser("mtt", experts_per_step=2), make_condenser("mtt")
    problem = make_problem(several, tmp_path)
    seen = set()
    for iteration in range(60):
        first, second = several.segments(problem, iteration)
        (alone,) = one.segments(problem, iteration)
        assert (first.expert, first.epoch) == (alone.expert, alone.epoch)
        assert torch.equal(first.start, alone.start) and torch.equal(first.target, alone.target)
        seen.add((first.expert, first.epoch, second.expert, second.epoch))
    assert len(seen) == 2**4


def test_several_segments_resume_to_the_same_bits(tmp_path):
    condenser = make_condenser("mtt", experts_per_step=2, batch_syn=4)
    problem = make_problem(condenser, tmp_path)
    whole = condenser.init(problem)
    for iteration in range(4):
        condenser.step(whole, problem, iteration)
        if iteration == 1:
            half = {key: tensor.clone() for key, tensor in whole.items()}
    for iteration in (2, 3):
        make_condenser("mtt", experts_per_step=2, batch_syn=4).step(half, problem, iteration)
    assert all(torch.equal(half[key], whole[key]) for key in whole)


def test_the_learned_rate_stays_positive_where_the_published_update_does_not(tmp_path):
    condenser = make_condenser("mtt", lr_lr=0.02)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    state = condenser.init(problem)
    condenser.step(state, problem, 3)
    a = condenser.config.lr_teacher
    derivative = float(state["log_lr.momentum"]) / a  # of the first step, by a
    assert a - condenser.config.lr_lr * derivative < 0
    assert 0 < float(state["log_lr"].exp()) < a


@pytest.mark.parametrize("engine", ["graph", "higher"])
def test_the_engines_make_the_same_set(engine, tmp_path):
    sets = []
    for unroll in ("adjoint", engine):
        condenser = make_condenser("mtt", unroll=unroll)
        problem = make_problem(condenser, tmp_path, dtype=torch.float64)
        state = condenser.init(problem)
        for iteration in range(3):
            condenser.step(state, problem, iteration)
        sets.append(state["images"])
    assert relative_error(*sets) < 1e-9


def test_mini_batches_are_taken_as_published():
    batches = inner_batches(10, 4, torch.Generator().manual_seed(0))
    taken = [next(batches) for _ in range(6)]
    assert [len(batch) for batch in taken] == [2, 4, 4, 2, 4, 4]
    for first in (0, 3):
        assert sorted(torch.cat(taken[first : first + 3]).tolist()) == list(range(10))
    assert torch.cat(taken[:3]).tolist() != torch.cat(taken[3:]).tolist()
    for batch in (None, 50):
        assert sorted(next(inner_batches(10, batch, torch.Generator().manual_seed(0))).tolist()) == list(range(10))


def test_all_views_of_an_image_share_a_mini_batch(tmp_path):
    assert views_of(torch.tensor([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]
    condenser = make_condenser("mtt", batch_syn=2, factor=2, flip=True)
    problem = make_problem(condenser, tmp_path)
    taken = []
    # batch_syn counts stored images, of which each has 8 views
    for step in condenser.inner_steps(6, problem, problem.rng("inner")):
        stored, views = step.index.view(2, 8) // 8, step.index.view(2, 8) % 8
        assert torch.equal(stored, stored[:, :1].expand(2, 8))
        assert torch.equal(views, torch.arange(8).expand(2, 8))
        taken += stored[:, 0].tolist()
    assert sorted(taken) == list(range(6))


def test_experts_stop_at_the_last_epoch_that_can_be_a_target():
    assert MTTConfig(max_start_epoch=20, expert_epochs=2).expert_plan("none").epochs == 21


def test_real_images_start_from_different_images_of_each_class(tmp_path):
    condenser = make_condenser("mtt")
    problem = make_problem(condenser, tmp_path, ipc=3)
    images = condenser.init(problem)["images"]
    real = problem.preprocessing(problem.data.train.images)
    rows = [int((real - image).abs().flatten(1).sum(1).argmin()) for image in images]
    assert len(set(rows)) == 9
    assert all(torch.equal(real[row], image) for row, image in zip(rows, images, strict=True))
    assert problem.data.train.labels[rows].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_noise_starts_from_a_normal_distribution(tmp_path):
    condenser = make_condenser("mtt", init="noise")
    images = condenser.init(make_problem(condenser, tmp_path, ipc=40))["images"]
    assert abs(float(images.mean())) < 0.05 and abs(float(images.std()) - 1) < 0.05
