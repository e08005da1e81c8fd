"""Compiled networks against `Network`, in fp64. Unless a test says so the traces run as they are, uncompiled."""

import logging
import math
import sys
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from condense.networks import CompiledNetwork, Network, compiled, convnet
from condense.rng import generator
from condense.unroll import InnerRun, InnerStep, adjoint

CONVNETS = [f"convnet:width=8,norm={norm}" for norm in ("none", "instance", "group", "batch", "layer")]
SPECS = [*CONVNETS, "mlp", "lenet", "alexnet", "resnet18:width=4", "vit:patch=4,dim=24,depth=1"]
ON = {"channels": 2, "size": 8, "classes": 3, "dtype": torch.float64}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The traces, which run uncompiled."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, **_: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(compiled.torch, "compile", keep)
    return graphs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, "draw"))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


def pair(spec: str) -> tuple[Network, CompiledNetwork, Tensor]:
    plain, fast = Network(spec, **ON), CompiledNetwork(spec, **ON)
    theta = plain.init(0, "nets")
    assert torch.equal(fast.init(0, "nets"), theta)
    return plain, fast, theta + 0.02 * draw(len(theta))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("spec, soft", [*((spec, True) for spec in SPECS), (CONVNETS[1], False)])
def test_the_loss_has_the_same_derivatives(spec: str, soft: bool) -> None:
    plain, fast, theta = pair(spec)
    x, m = draw(4, 2, 8, 8, seed=1), draw(len(theta), seed=2)
    y = draw(4, 3, seed=3).softmax(1) if soft else torch.tensor([0, 2, 1, 1])
    expected, nothing = plain.loss.gradient(theta, x, y)
    actual, kept = fast.loss.gradient(theta, x, y)
    assert nothing == ()
    close(actual, expected)
    for outputs in ((), kept):
        ours, theirs = fast.loss.slope(theta, m, x, y, outputs), plain.loss.slope(theta, m, x, y)
        assert (ours.y is None) == (theirs.y is None) == (not soft)
        for part, other in zip(ours, theirs, strict=True):
            if other is not None:
                close(part, other)
                assert not part.requires_grad
    close(fast.loss.slope_by_images(theta, m, x, y), theirs.x)
    close(plain.loss.slope_by_images(theta, m, x, y), theirs.x)
    for ours, theirs in zip(fast.gradient(theta, x, y), plain.gradient(theta, x, y), strict=True):
        close(ours, theirs)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("spec", SPECS)
def test_embedding_and_features_have_the_same_values_and_derivatives(spec: str) -> None:
    found = []
    *networks, theta = pair(spec)
    for network in networks:
        x = draw(4, 2, 8, 8, seed=1).requires_grad_()
        maps, embedding = network.features(theta, x)
        total = sum((map.square().sum() for map in maps), embedding.pow(3).sum())
        (by_features,) = torch.autograd.grad(total, x)
        (by_embedding,) = torch.autograd.grad(network.embed(theta, x).pow(3).sum(), x)
        found.append([*maps, embedding, by_features, by_embedding])
        with torch.no_grad():
            close(network.embed(theta, x), embedding)
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs)


@pytest.mark.usefixtures("traced")
def test_what_is_kept_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an activation that works in place on the output of a convolution, as in torchvision's efficientnet."""
    monkeypatch.setitem(convnet.ACTIVATIONS, "swish", partial(nn.SiLU, inplace=True))
    plain, fast, theta = pair("convnet:width=8,norm=none,activation=swish")
    x, y, m = draw(2, 2, 8, 8), torch.tensor([0, 2]), draw(len(theta), seed=1)
    _, kept = fast.loss.gradient(theta, x, y)
    for ours, theirs in zip(fast.loss.slope(theta, m, x, y, kept)[:3], plain.loss.slope(theta, m, x, y), strict=False):
        close(ours, theirs)


def convolutions(graph: torch.fx.GraphModule) -> int:
    """Those of the graph, one for each derivative that it takes."""
    count = 0
    for node in graph.graph.nodes:
        count += "convolution.default" in str(node.target)
        if "convolution_backward" in str(node.target):
            by_x, by_w, _ = node.args[-1]
            count += by_x + by_w
    return count


def test_what_is_kept_is_not_computed_again(traced: list[torch.fx.GraphModule]) -> None:
    """Of two convolutions the first has 18 products behind each output, the second 72.

    The derivative of the first by its two channels is a matrix product.
    """
    _, fast, theta = pair("convnet:width=8")
    x, y = draw(4, 2, 8, 8, seed=1), torch.tensor([0, 2, 1, 1])
    _, kept = fast.loss.gradient(theta, x, y)
    assert [tuple(part.shape) for part in kept] == [(4, 8, 4, 4), (4, 8, 4, 4)]
    fast.loss.slope(theta, theta, x, y)
    fast.loss.slope(theta, theta, x, y, kept)
    fast.loss.slope_by_images(theta, theta, x, y)
    fast.loss.slope_by_images(theta, theta, x, y, kept)
    # First convolution: y, y' by w'; dw. Second: y, y' by x' and w'; dx for x', dx twice; dw twice.
    assert [convolutions(graph) for graph in traced] == [5, 3 + 3 + 3 + 2, 3 + 2 + 2 + 2, 2 + 3 + 3, 2 + 2 + 2]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "sizes, budget, expected",
    [
        ([1, 1, 1, 1], 0, [0, 0, 0, 0]),
        ([1, 1, 1, 1], 5000, [0, 0, 2, 2]),
        ([1, 1, 1, 1], 2**30, [2, 2, 2, 2]),
        ([1, 2, 1, 2, 1], 4000, [0, 0, 0, 0, 0]),
        ([1, 2, 1, 2, 1], 5000, [0, 0, 0, 2, 0]),
        ([1, 2, 1, 2, 1], 2**30, [0, 2, 0, 2, 0]),
    ],
)
def test_the_adjoint_keeps_what_its_memory_allows(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], budget: int, expected: list[int]
) -> None:
    """2048 bytes an image: none, those of the last steps, or all, of the largest size; and the same derivative."""
    plain, fast, theta = pair("convnet:width=8")
    monkeypatch.setattr(sys.modules["condense.unroll.adjoint"], "KEEP_BYTES", budget)
    given: list[int] = []
    slope = fast.loss.slope
    monkeypatch.setattr(fast.loss, "slope", lambda *all: given.append(len(all[4])) or slope(*all))
    images, labels, steps = draw(5, 2, 8, 8), torch.arange(5) % 3, []
    for k, size in enumerate(sizes):
        steps.append(InnerStep(torch.arange(k, k + size) % 5, lambda x: 2 * x))
    results = [
        adjoint(InnerRun(network.loss, torch.norm, theta, images, labels, torch.tensor(0.1).double(), steps))
        for network in (plain, fast)
    ]
    assert given[::-1] == expected
    for ours, theirs in ((results[1].images, results[0].images), (results[1].lr, results[0].lr)):
        close(ours, theirs)


def test_torch_compiles_it(caplog: pytest.LogCaptureFixture) -> None:
    """In float32, by torch.compile itself; and what was compiled serves again."""
    where = ON | {"dtype": torch.float32}
    plain, fast = Network("convnet:width=4", **where), CompiledNetwork("convnet:width=4", **where)
    theta, x, y = plain.init(0, "nets"), draw(3, 2, 8, 8).float(), torch.tensor([0, 2, 1])
    expected, _ = plain.gradient(theta, x, y)
    with caplog.at_level(logging.INFO, "condense"):
        for _ in range(2):
            actual, _ = fast.gradient(theta, x, y)
            assert float((actual - expected).norm() / expected.norm()) < 1e-5
    assert [record.message.partition(" in ")[0] for record in caplog.records] == ["compiled the gradient"]
    assert math.isfinite(float(actual.norm()))
