"""The gradient penalty and the growing loss of AST's experts against slow oracles, and what they are for."""

from itertools import pairwise

import pytest
import torch
from oracles import smooth
from small_experts import N, batches, flat, inputs_and_labels, network, same_module, snapshots

from condense.augment import FULL_STRATEGY
from condense.data import Inputs, Split, fit_preprocessing, load_dataset
from condense.experts import ExpertPlan, train_expert
from condense.experts.penalty import penalty, penalty_gradient
from condense.networks import Network
from condense.rng import generator

NORMS = [f"convnet:width=4,depth=2,norm={norm}" for norm in ("none", "instance", "group", "batch", "layer")]
PUBLISHED = {"clip_loss": 0.5, "clip_epochs": 10, "gradient_penalty": 2.0}


def draw(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, "draw"))


# the penalty


@pytest.mark.parametrize("spec", [*NORMS, "resnet18:width=4", "mlp"])
def test_its_gradient_is_that_of_double_backward(spec):
    """Forward over the images, then once backward, against autograd through autograd; two channels."""
    net = Network(spec, channels=2, size=8, classes=3, dtype=torch.float64)
    theta, x = net.init(0, "theta"), 0.7 * draw(4, 2, 8, 8, seed=1)
    point = (theta + 0.1 * draw(len(theta), seed=2)).requires_grad_()
    expected = torch.autograd.grad(smooth.penalty(lambda images: net.logits(point, images), x), point)[0]
    actual = penalty_gradient(net, point.detach(), x)
    assert (actual - expected).norm() < 1e-9 * expected.norm() and expected.norm() > 0


def test_a_micro_batch_changes_nothing_but_the_rounding():
    shape = {"channels": 2, "size": 8, "classes": 3, "dtype": torch.float64}
    whole, parts = (Network(NORMS[1], **shape, micro_batch=micro_batch) for micro_batch in (None, 3))
    theta, x = whole.init(0, "theta"), draw(7, 2, 8, 8, seed=1)
    expected = penalty_gradient(whole, theta, x)
    assert (penalty_gradient(parts, theta, x) - expected).norm() < 1e-12 * expected.norm()


@pytest.mark.parametrize("norm", ["instance", "batch", "layer"])
def test_its_gradient_by_finite_differences(norm):
    net = Network(
        f"convnet:width=4,depth=2,norm={norm},activation=swish", channels=1, size=8, classes=3, dtype=torch.float64
    )
    theta, x, h = net.init(0, "theta"), draw(3, 1, 8, 8, seed=1), 1e-5

    def value(point):
        images = x.clone().requires_grad_()
        return float(penalty(torch.autograd.grad(net.logits(point, images).sum(), images)[0]))

    gradient = penalty_gradient(net, theta, x)
    for seed in (3, 4):
        direction = draw(len(theta), seed=seed)
        measured = (value(theta + h * direction) - value(theta - h * direction)) / (2 * h)
        assert measured == pytest.approx(float(gradient @ direction), rel=1e-5)


def test_it_is_zero_where_every_image_has_length_one():
    slope = torch.full((2, 1, 4, 4), 0.25)
    assert penalty(slope) == 0
    assert penalty(2 * slope) == pytest.approx(1)
    assert penalty(0 * slope) == pytest.approx(1, rel=1e-5)


def test_a_network_that_sees_nothing_has_a_finite_gradient():
    net = network()
    theta = torch.zeros(net.num_parameters, dtype=torch.float64)
    assert penalty_gradient(net, theta, draw(3, 1, 8, 8, seed=1)).isfinite().all()


# the growing loss


def test_the_published_factors():
    plan = ExpertPlan(epochs=12, lr=0.1, batch=4, **PUBLISHED)
    assert [plan.loss_factor(epoch) for epoch in range(12)] == pytest.approx(
        [smooth.factor(epoch) for epoch in range(12)]
    )
    assert {ExpertPlan(epochs=12, lr=0.1, batch=4).loss_factor(epoch) for epoch in range(12)} == {1.0}


@pytest.mark.parametrize("dsa", ["none", FULL_STRATEGY])
def test_against_torchs_optimiser_epoch_by_epoch(dsa):
    """Momentum and weight decay, the factor of each epoch, and the penalty on the images before augmentation."""
    module = same_module(2)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    values = {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3, "dsa": dsa, "gradient_penalty": 0.5}
    expert = snapshots(2, **values, clip_loss=0.5, clip_epochs=10)
    next(expert)
    for epoch, theta in enumerate(expert):
        for (x, y), (plain, _) in zip(batches(2, epoch, dsa), batches(2, epoch), strict=True):
            optimiser.zero_grad()
            smooth.loss(module, x, plain, y, epoch=epoch, weight=0.5).backward()
            optimiser.step()
        torch.testing.assert_close(theta, flat(module), rtol=1e-9, atol=1e-11)


def test_each_part_alone_changes_the_expert_and_none_of_them_nothing():
    plain = list(snapshots())
    for part in ({"clip_loss": 0.5, "clip_epochs": 10}, {"gradient_penalty": 2.0}):
        other = list(snapshots(**part))
        assert torch.equal(other[0], plain[0]) and not torch.equal(other[1], plain[1])
    whole = list(snapshots(clip_loss=1.0, clip_epochs=3))
    assert all(torch.equal(a, b) for a, b in zip(plain, whole, strict=True))


def test_training_with_the_penalty_brings_it_down():
    inputs, _ = inputs_and_labels()
    x, net = inputs[torch.arange(N)], network()

    def value(theta):
        images = x.clone().requires_grad_()
        return float(penalty(torch.autograd.grad(net.logits(theta, images).sum(), images)[0]))

    first, *_, last = snapshots(epochs=12, lr=0.05, gradient_penalty=1.0)
    *_, without = snapshots(epochs=12, lr=0.05)
    assert value(last) < 0.5 * min(value(first), value(without))


# the paper's measure of smoothness: the mean change of the parameters from one epoch to the next


def mean_move(experts=2, **plan):
    """On 600 real digits, with the optimiser of AST's experts."""
    data = load_dataset("digits")
    few = Split(data.train.images[:600], data.train.labels[:600])
    inputs = Inputs(few, fit_preprocessing("mean_std", data, None))
    net = Network("convnet:width=8,depth=2", channels=1, size=8, classes=10)
    plan = ExpertPlan(epochs=8, lr=0.003, momentum=0.9, weight_decay=1e-3, batch=64, dsa="crop_scale_rotate", **plan)
    moves = []
    for index in range(experts):
        trajectory = train_expert(net, inputs, few.labels, plan, seed=0, index=index)
        moves += [float((after - before).norm()) for before, after in pairwise(trajectory)]
    return sum(moves) / len(moves)


def test_the_growing_loss_makes_trajectories_smoother():
    assert mean_move(clip_loss=0.5, clip_epochs=10) < 0.9 * mean_move()
