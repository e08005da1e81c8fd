"""The scores of single networks: by numpy, by autograd through a network, and of sequences written by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from condense.networks import create
from condense.objectives import error_norm, forgetting_events, gradient_norm
from condense.rng import generator, isolated

Y = torch.tensor([0, 2, 1, 1])


def test_the_error_is_that_of_numpy():
    z = 3 * torch.randn(4, 3, generator=generator(0, "z"), dtype=torch.float64)
    p = np.exp(z.numpy()) / np.exp(z.numpy()).sum(1, keepdims=True)
    expected = np.sqrt(((p - np.eye(3)[Y]) ** 2).sum(1))
    np.testing.assert_allclose(error_norm(z, Y).numpy(), expected, rtol=1e-12)


def test_the_error_is_from_0_to_the_root_of_2():
    z = torch.tensor([[99.0, 0, 0], [99, 0, 0], [0, 0, 0]])
    assert error_norm(z, torch.tensor([0, 1, 2])).tolist() == pytest.approx([0, math.sqrt(2), math.sqrt(2 / 3)])


@pytest.mark.parametrize("spec", ["convnet:width=4,depth=2", "lenet", "resnet18:width=4,norm=batch"])
def test_the_gradient_is_autograds_by_the_last_layer(spec):
    with isolated(0, "network"):
        module = create(spec, channels=1, size=16, classes=3).double().eval()
    *_, last = (part for part in module.modules() if isinstance(part, torch.nn.Linear))
    seen = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x = torch.randn(4, 1, 16, 16, generator=generator(0, "x"), dtype=torch.float64)
    z = module(x)
    (h,) = seen
    found = gradient_norm(z.detach(), h, Y)
    for n in range(4):
        loss = F.cross_entropy(z[n : n + 1], Y[n : n + 1])
        by_weight, by_bias = torch.autograd.grad(loss, [last.weight, last.bias], retain_graph=True)
        assert float(found[n]) == pytest.approx(math.hypot(by_weight.norm(), by_bias.norm()), rel=1e-10)


def test_forgetting_is_right_and_then_wrong():
    sequences = {
        "1111": 0,
        "0111": 0,
        "1011": 1,
        "0110": 1,
        "1010": 2,
        "0101": 1,
        "1000": 1,
        "0001": 0,
        "0000": math.inf,
    }
    correct = torch.tensor([[digit == "1" for digit in sequence] for sequence in sequences]).T
    assert forgetting_events(correct).tolist() == list(sequences.values())


def test_what_was_seen_once_is_learned_or_not():
    assert forgetting_events(torch.tensor([[True, False]])).tolist() == [0, math.inf]
