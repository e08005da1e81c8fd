"""GSAM against an oracle that works on named parameters, and against what its equations imply."""

import pytest
import torch
from oracles import gsam
from small_experts import CONVNET, batches, flat, network, same_module, snapshots
from torch.nn import functional as F

from condense.augment import FULL_STRATEGY
from condense.experts import gsam_direction
from condense.rng import generator

LR = 0.1


def draw(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, "draw"))


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(("rho", "alpha"), [(0.01, 1.0), (0.5, 0.3), (0.1, 0.0)])
@pytest.mark.parametrize("dsa", ["none", FULL_STRATEGY])
@pytest.mark.parametrize("spec", [CONVNET, "convnet:width=4,depth=1,norm=batch"])
def test_against_the_oracle_epoch_by_epoch(spec, dsa, rho, alpha, adaptive):
    """Nine steps on three batches an epoch; both gradients of a step see the same augmented batch."""
    module = same_module(1, spec)
    expert = snapshots(1, spec=spec, lr=LR, dsa=dsa, rho=rho, alpha=alpha, adaptive=adaptive)
    start = next(expert)
    torch.testing.assert_close(start, flat(module), rtol=0, atol=0)
    for epoch, theta in enumerate(expert):
        for x, y in batches(1, epoch, dsa):
            gsam.step(module, x, y, lr=LR, rho=rho, alpha=alpha, adaptive=adaptive)
        assert (theta - flat(module)).norm() < 1e-9 * (theta - start).norm()


@pytest.mark.parametrize("adaptive", [True, False])
def test_without_a_radius_it_is_sgd_bit_for_bit(adaptive):
    net = network()
    expert = snapshots(dsa=FULL_STRATEGY, lr=LR, rho=0.0, alpha=0.7, adaptive=adaptive)
    theta = next(expert)
    for epoch, actual in enumerate(expert):
        for x, y in batches(0, epoch, FULL_STRATEGY):
            point = theta.clone().requires_grad_()
            theta = theta - LR * torch.autograd.grad(F.cross_entropy(net.logits(point, x), y), point)[0]
        assert torch.equal(actual, theta)


def test_a_radius_changes_the_path():
    plain, other = snapshots(), snapshots(rho=0.01)
    assert torch.equal(next(plain), next(other))
    assert not torch.equal(next(plain), next(other))


def bowl(size=6):
    """A quadratic with gradient A theta, a point, and A."""
    root = draw(size, size, seed=1)
    return root @ root.T, draw(size, seed=2)


@pytest.mark.parametrize("adaptive", [True, False])
def test_direction_on_a_quadratic(adaptive):
    """g = A t and g' = A (t + e), with e on the sphere |e / T| = rho, T = |t| or 1; the correction is normal to g'."""
    A, theta = bowl()
    rho, seen = 0.3, []

    def gradient(point):
        seen.append(point.clone())
        return A @ point

    sam = gsam_direction(gradient, theta, rho, 0.0, adaptive)
    ascent = seen[1] - theta
    metric = theta.abs() if adaptive else torch.ones_like(theta)
    torch.testing.assert_close((ascent / metric).norm(), torch.tensor(rho).double())
    g = A @ theta
    best = rho * (metric * g).norm()  # the largest g.e on that sphere, by Cauchy and Schwarz
    torch.testing.assert_close(g @ ascent, best)
    torch.testing.assert_close(sam, A @ (theta + ascent))

    with_gap = gsam_direction(gradient, theta, rho, 2.0, adaptive)
    correction = (sam - with_gap) / 2
    assert abs(F.cosine_similarity(correction, sam, 0)) < 1e-12
    torch.testing.assert_close(correction, g - (g @ sam) / (sam @ sam) * sam)


def test_a_gradient_of_zero_gives_no_nan():
    zero = gsam_direction(torch.zeros_like, draw(4, seed=1), 0.1, 1.0, True)
    assert zero.count_nonzero() == 0
