"""The outer optimisers against torch's and against its closed form, and the inner learning rate it moves."""

import pytest
import torch
from torch.nn import functional as F

from condense.augment import DSA
from condense.data import Preprocessing, RealData, Split
from condense.methods import Problem
from condense.methods.mtt import MTT, MTTConfig
from condense.networks import Network
from condense.rng import generator
from condense.synthetic import DistilledSet, adam_, sgd_


def draw(*shape, index=0):
    return torch.randn(shape, dtype=torch.float64, generator=generator(0, "draw", index))


def fresh(value):
    return {"p": value.clone(), "p.momentum": torch.zeros_like(value), "other": torch.ones(2)}


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_is_torchs_sgd(momentum):
    state, parameter = fresh(draw(4, 3)), draw(4, 3).requires_grad_()
    optimiser = torch.optim.SGD([parameter], lr=0.3, momentum=momentum)
    for index in range(1, 6):
        parameter.grad = draw(4, 3, index=index)
        optimiser.step()
        sgd_(state, "p", parameter.grad, lr=0.3, momentum=momentum)
        torch.testing.assert_close(state["p"], parameter.detach(), rtol=1e-12, atol=1e-12)


def test_a_constant_gradient_in_closed_form():
    """After k steps v = g (1 - m^k) / (1 - m), and p has lost lr times the sum of all v."""
    lr, m, g, state = 0.1, 0.5, torch.tensor([1.0, -2.0]).double(), fresh(torch.zeros(2).double())
    for k in range(1, 8):
        sgd_(state, "p", g, lr=lr, momentum=m)
        torch.testing.assert_close(state["p.momentum"], g * (1 - m**k) / (1 - m))
        torch.testing.assert_close(state["p"], -lr * g / (1 - m) * (k - m * (1 - m**k) / (1 - m)))


def fresh_for_adam(value):
    more = {"p.square": torch.zeros_like(value), "p.steps": torch.zeros((), dtype=torch.float64)}
    return fresh(value) | more


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_torchs_adam(momentum, dtype):
    state, parameter = fresh_for_adam(draw(4, 3).to(dtype)), draw(4, 3).to(dtype).requires_grad_()
    optimiser = torch.optim.Adam([parameter], lr=0.3, betas=(momentum, 0.999))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for index in range(1, 6):
        parameter.grad = draw(4, 3, index=index).to(dtype) * 10.0 ** (-3 * index)  # so small that epsilon counts
        optimiser.step()
        adam_(state, "p", parameter.grad, lr=0.3, momentum=momentum)
        torch.testing.assert_close(state["p"], parameter.detach(), rtol=tolerance, atol=tolerance)
    assert state["p"].dtype == dtype


def test_the_first_step_of_adam_is_as_long_as_its_rate():
    """Whatever the gradient's size, against its sign."""
    state = fresh_for_adam(torch.zeros(3).double())
    adam_(state, "p", torch.tensor([5.0, -1e-3, 0.0]).double(), lr=0.1, momentum=0.9)
    torch.testing.assert_close(state["p"], torch.tensor([-0.1, 0.1, 0.0]).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("step", [sgd_, adam_])
def test_works_in_place_and_leaves_the_rest_alone(step):
    state, gradient = fresh_for_adam(draw(3)), draw(3, index=1)
    held, copy = dict(state), gradient.clone()
    step(state, "p", gradient, lr=0.1, momentum=0.5)
    assert all(state[name] is held[name] for name in held)
    assert torch.equal(gradient, copy) and torch.equal(state["other"], torch.ones(2))


def test_length_of_a_distilled_set():
    assert len(DistilledSet(torch.zeros(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64))) == 6


# the inner learning rate a = exp(log_lr)


A = 0.05


class OneSegment:
    """An expert that hardly moves: every inner step overshoots, so a descends."""

    def __init__(self, network):
        self.points = [network.init(0, "start")]
        self.points.append(self.points[0] + 1e-3 * F.normalize(draw(network.num_parameters), dim=0))

    def snapshot(self, expert, epoch):  # noqa: ARG002 - the signature of a store
        return self.points[epoch]


def problem():
    images = torch.randint(256, (12, 1, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
    split = Split(images, torch.arange(12) % 3)
    data = RealData("random", split, split, split, ("a", "b", "c"), "0" * 64, "test", mirrored=False)
    preprocessing = Preprocessing("mean_std", {"mean": torch.zeros(1).double(), "std": torch.ones(1).double()})
    network = Network("convnet:width=4,depth=1", channels=1, size=8, classes=3, dtype=torch.float64)
    return Problem(data, preprocessing, network, DSA("none"), 2, 0, experts=OneSegment(network))


def after(iterations, *, lr_lr=0.0, a=A):
    """log_lr and the first matching loss after some iterations with images that stand still."""
    settings = {"syn_steps": 3, "max_start_epoch": 1, "expert_epochs": 1, "num_experts": 1, "lr_img": 1e-30}
    mtt, given = MTT(MTTConfig(lr_teacher=a, lr_lr=lr_lr, **settings)), problem()
    state = mtt.init(given)
    losses = [mtt.step(state, given, iteration)["loss"] for iteration in range(iterations)]
    return state["log_lr"], losses[0]


@pytest.fixture(scope="module")
def derivative():
    """dL/da at the first iteration, by a central difference of the loss."""
    h = 1e-6
    return (after(1, a=A + h)[1] - after(1, a=A - h)[1]) / (2 * h)


@pytest.mark.parametrize("part", [1e-2, 1e-4])
def test_the_first_step_of_the_inner_rate_is_the_published_one_to_first_order(derivative, part):
    """a <- a - lr_lr dL/da, here a step of a small part of a."""
    lr_lr = part * A / derivative
    log_lr, _ = after(1, lr_lr=lr_lr)
    published = -lr_lr * derivative
    assert float(log_lr.exp()) - A == pytest.approx(published, rel=part)
    assert float(log_lr.exp()) - A != pytest.approx(published, rel=part / 4)  # and no more than that


@pytest.mark.parametrize("times", [2, 5, 20, 1e2, 1e8])
def test_the_inner_rate_stays_positive_however_large_its_step(derivative, times):
    """The published update would take a at once to 1 - times of its value, below zero."""
    log_lr, _ = after(10, lr_lr=times * A / derivative)
    rate = log_lr.float().exp()
    assert 0 < float(rate) < A
