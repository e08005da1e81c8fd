"""A batch that is split gives what the whole one gives, in fp64. Compiled networks run as traces, but for one test."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condense.errors import ConfigError
from condense.networks import CompiledNetwork, InnerLoss, Network, has_compiler, program
from condense.rng import generator
from condense.unroll import ENGINES, InnerRun, InnerStep

SPEC = "convnet:width=8"
ON = {"channels": 2, "size": 8, "classes": 3, "dtype": torch.float64}
N = 7
CASES = [(Network, SPEC, size) for size in (1, 3, 4, N, N + 1)]
CASES += [(Network, spec, 3) for spec in ("convnet:width=8,norm=layer", "resnet18:width=4", "mlp")]
CASES += [(CompiledNetwork, SPEC, size) for size in (3, N)]


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program.torch, "compile", lambda graph, **_: graph)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, "draw"))


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= 1e-12 * expected.norm()


def labels(soft: bool) -> Tensor:
    return draw(N, 3, seed=3).softmax(1) if soft else torch.arange(N) % 3


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("kind, spec, size", CASES)
def test_the_loss_and_its_derivatives(kind: type[Network], spec: str, size: int, soft: bool) -> None:
    whole, split = kind(spec, **ON), kind(spec, micro_batch=size, **ON)
    theta, x, y = whole.init(0, "nets"), draw(N, 2, 8, 8, seed=1), labels(soft)
    m = draw(len(theta), seed=2)
    close(split.loss(theta, x, y), whole.loss(theta, x, y))
    (expected, _), (actual, kept) = whole.loss.gradient(theta, x, y), split.loss.gradient(theta, x, y)
    close(actual, expected)
    assert size >= N or kept == ()
    for ours, theirs in zip(split.loss.slope(theta, m, x, y, kept), whole.loss.slope(theta, m, x, y), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            close(ours, theirs)
            assert not ours.requires_grad
    by_images = split.loss.slope_by_images(theta, m, x, y, kept)
    close(by_images, whole.loss.slope_by_images(theta, m, x, y))
    for ours, theirs in zip(split.gradient(theta, x, y), whole.gradient(theta, x, y), strict=True):
        close(ours, theirs)


def of_images(network: Network, theta: Tensor) -> list[Tensor]:
    """What a network makes of images, alone and in 3 groups of 5, and the derivative of a function of each."""
    x, groups = draw(N, 2, 8, 8, seed=1).requires_grad_(), draw(3, 5, 2, 8, 8, seed=2).requires_grad_()

    def describe(x: Tensor) -> tuple[list[Tensor], Tensor]:
        maps, embedding = network.features(theta, x)
        return [part.square().sum(1) for part in maps], embedding

    maps, embedding = network.by_group(describe, groups)
    by_group = [*maps, embedding, network.by_group(lambda x: network.logits(theta, x).softmax(1), groups)]
    made = [(network.logits(theta, x), x), (network.embed(theta, x), x), *((part, groups) for part in by_group)]
    derivatives = [torch.autograd.grad(part.pow(3).sum(), at, retain_graph=True)[0] for part, at in made]
    with torch.inference_mode():
        chosen = network.embed(theta, x.detach())
    return [*(part for part, _ in made), *derivatives, chosen]


@pytest.mark.parametrize("kind, spec, size", CASES)
def test_what_becomes_of_images_and_its_derivatives(kind: type[Network], spec: str, size: int) -> None:
    whole = kind(spec, **ON)
    theta = whole.init(0, "nets")
    split = kind(spec, micro_batch=size, **ON)
    for ours, theirs in zip(of_images(split, theta), of_images(whole, theta), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("kind, engine", [*((Network, engine) for engine in ENGINES), (CompiledNetwork, "adjoint")])
def test_every_engine_differentiates_a_run_of_split_batches(kind: type[Network], engine: str) -> None:
    """Of batches of 2, 7 and 5 images: the first is whole, and larger ones follow."""
    theta, images = Network(SPEC, **ON).init(0, "nets"), draw(N, 2, 8, 8)
    steps = [InnerStep(torch.arange(n), lambda x: 2 * x) for n in (2, 7, 5)]

    def unrolled(loss: InnerLoss) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        lr = torch.tensor(0.1).double()
        done = ENGINES[engine](InnerRun(loss, torch.norm, theta, images, labels(soft=True), lr, steps, momentum=0.5))
        return done.loss, done.images, done.labels, done.lr

    split = kind(SPEC, micro_batch=3, **ON)
    for ours, theirs in zip(unrolled(split.loss), unrolled(Network(SPEC, **ON).loss), strict=True):
        assert ours is not None and theirs is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_torch_compiles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, by torch.compile itself: a program for the chunks and one for the rest."""
    monkeypatch.undo()
    where = ON | {"dtype": torch.float32}
    plain = Network("convnet:width=4", **where)
    theta, x, y = plain.init(0, "nets"), draw(N, 2, 8, 8).float(), labels(soft=False)
    actual, _ = CompiledNetwork("convnet:width=4", micro_batch=4, **where).gradient(theta, x, y)
    expected, _ = plain.gradient(theta, x, y)
    assert float((actual - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("kind", [Network, CompiledNetwork])
def test_no_more_images_than_that_are_at_work(kind: type[Network], monkeypatch: pytest.MonkeyPatch) -> None:
    network, call, seen = kind(SPEC, micro_batch=3, **ON), nn.Module.__call__, set()

    def watched(module: nn.Module, *inputs: Tensor) -> Any:
        seen.update(len(given) for given in inputs if given.ndim == 4)
        return call(module, *inputs)

    monkeypatch.setattr(nn.Module, "__call__", watched)
    theta, x, y = network.init(0, "nets"), draw(N, 2, 8, 8).requires_grad_(), labels(soft=False)
    network.gradient(theta, x, y)
    network.loss.gradient(theta, x, y)
    network.loss.slope(theta, theta, x, y)
    network.loss.slope_by_images(theta, theta, x, y)
    network.embed(theta, x).sum().backward()
    network.features(theta, x)[1].sum().backward()
    network.by_group(lambda x: network.logits(theta, x), x[None]).sum().backward()
    assert seen == {3, 1}


@pytest.mark.parametrize("spec", ["convnet:norm=batch", "resnet18:norm=batch", "torchvision:shufflenet_v2_x0_5"])
def test_batch_norm_is_refused(spec: str) -> None:
    where = ON | {"size": 32}
    Network(spec, **where)
    with pytest.raises(ConfigError, match=r"micro_batch = 9: network '.*' has batch norm.*Leave micro_batch out"):
        Network(spec, micro_batch=9, **where)
