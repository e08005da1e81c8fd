"""The network as a function of a flat vector: equality with the module, and derivatives against finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from condense import rng
from condense.errors import ConfigError
from condense.networks import Network, create

# One of each kind of layer; smooth activations where there is a choice, so that finite differences hold.
SMALL = [
    *(f"convnet:width=4,norm={norm},activation=swish" for norm in ("none", "instance", "group", "batch", "layer")),
    "mlp",
    "lenet",
    "vgg11:width=4,norm=batch",
    "resnet18:width=4",
    "resnet18:width=4,norm=batch",
    "vit:dim=12,depth=1",
]
ON = {"channels": 1, "size": 8, "classes": 3}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("spec", SMALL)
def test_equals_the_ordinary_module(spec: str) -> None:
    network = Network(spec, dtype=torch.float64, **ON)
    with rng.isolated(3, "nets", 5):
        module = create(spec, **ON).double().train()
    theta, x = network.init(3, "nets", 5), draw(4, 1, 8, 8)
    assert [(name, p.shape) for name, p in network.split(theta).items()] == [
        (name, p.shape) for name, p in module.named_parameters()
    ]
    torch.testing.assert_close(network.logits(theta, x), module(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", SMALL)
def test_classifier_on_the_embedding_gives_the_logits(spec: str) -> None:
    network = Network(spec, dtype=torch.float64, **ON)
    theta, x = network.init(0, "nets"), draw(4, 1, 8, 8)
    *_, weight, bias = network.split(theta).values()
    torch.testing.assert_close(network.embed(theta, x) @ weight.T + bias, network.logits(theta, x))


def test_flat_vector_splits_into_views_and_joins_again() -> None:
    network = Network("convnet:width=4", **ON)
    theta = network.init(0, "nets")
    assert theta.shape == (network.num_parameters,)
    parts = network.split(theta)
    assert torch.equal(torch.cat([part.flatten() for part in parts.values()]), theta)
    parts["classifier.bias"].fill_(7)
    assert theta[-3:].eq(7).all()


def test_initialisation_depends_on_the_address_alone() -> None:
    network = Network("convnet:width=4", **ON)
    before = torch.get_rng_state()
    theta = network.init(1, "nets", 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(Network("convnet:width=4", **ON).init(1, "nets", 2), theta)
    for other in [(2, "nets", 2), (1, "experts", 2), (1, "nets", 3)]:
        assert not torch.equal(network.init(*other), theta)


def test_building_leaves_the_global_generator_untouched() -> None:
    before = torch.get_rng_state()
    Network("mlp", **ON)
    assert torch.equal(torch.get_rng_state(), before)


def _problem(spec: str) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, Tensor]:
    """Loss (theta, x) -> scalar, a point theta with no symmetric values, a unit direction, images."""
    network = Network(spec, dtype=torch.float64, **ON)
    theta = network.init(0, "nets")
    theta = theta + 0.05 * draw(len(theta), seed=1)
    direction = F.normalize(draw(len(theta), seed=2), dim=0)
    targets = draw(3, 3, seed=3).softmax(1)
    return lambda theta, x: F.cross_entropy(network.logits(theta, x), targets), theta, direction, draw(3, 1, 8, 8)


@pytest.mark.parametrize("spec", SMALL)
def test_second_derivatives_agree_with_finite_differences_in_every_mode(spec: str) -> None:
    """H v and d_x <g, v>, by double backward and by one backward pass through the forward-mode derivative."""
    loss, theta, v, x = _problem(spec)
    step = 1e-6

    slope = (loss(theta + step * v, x) - loss(theta - step * v, x)) / (2 * step)
    gradients = [torch.func.grad(loss, (0, 1))(theta + sign * step * v, x) for sign in (1, -1)]
    expected = [(plus - minus) / (2 * step) for plus, minus in zip(*gradients, strict=True)]

    def derivative(theta: Tensor, x: Tensor) -> Tensor:
        value: Tensor = torch.func.jvp(lambda theta: loss(theta, x), (theta,), (v,))[1]
        return value

    theta, x = theta.requires_grad_(), x.requires_grad_()
    forward = derivative(theta, x)
    torch.testing.assert_close(forward.detach(), slope.detach(), rtol=1e-6, atol=1e-9)
    (g,) = torch.autograd.grad(loss(theta, x), theta, create_graph=True)
    for scalar in (g @ v, forward):
        for actual, wanted in zip(torch.autograd.grad(scalar, (theta, x)), expected, strict=True):
            assert (actual - wanted).norm() < 1e-6 * wanted.norm()


def test_can_be_traced_whole() -> None:
    """torch.compile without a graph break, the forward-mode derivative included (traced here, not compiled)."""
    loss, theta, v, x = _problem("convnet:width=4,depth=1,norm=batch")

    def derivative(theta: Tensor, x: Tensor) -> Tensor:
        value: Tensor = torch.func.jvp(lambda theta: loss(theta, x), (theta,), (v,))[1]
        return value

    traced = torch.compile(derivative, backend="aot_eager", fullgraph=True)
    gradients = [torch.autograd.grad(f(theta.requires_grad_(), x), theta)[0] for f in (derivative, traced)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("spec", ["convnet:width=4,norm=batch", "torchvision:shufflenet_v2_x0_5"])
def test_batch_norm_uses_the_batch_and_remembers_nothing(spec: str) -> None:
    network = Network(spec, channels=1, size=32, classes=3, dtype=torch.float64)
    theta, x = network.init(0, "nets"), draw(6, 1, 32, 32)
    alone, among_others = network.logits(theta, x[:3]), network.logits(theta, x)[:3]
    assert not torch.allclose(alone, among_others)
    assert torch.equal(network.logits(theta, x[:3]), alone)


def test_dropout_is_off() -> None:
    network = Network("torchvision:mobilenet_v2", channels=3, size=32, classes=3)
    theta, x = network.init(0, "nets"), torch.rand(2, 3, 32, 32)
    assert torch.equal(network.logits(theta, x), network.logits(theta, x))


def test_no_embedding_without_a_linear_classifier() -> None:
    network = Network("squeezenet1_1", channels=3, size=32, classes=3)
    theta, x = network.init(0, "nets"), torch.rand(2, 3, 32, 32)
    assert network.logits(theta, x).shape == (2, 3)
    with pytest.raises(ConfigError, match="'torchvision:squeezenet1_1' has no embedding"):
        network.embed(theta, x)


def test_batch_norm_refuses_a_single_number() -> None:
    network = Network("torchvision:shufflenet_v2_x0_5", channels=3, size=8, classes=10)
    theta = network.init(0, "test")
    network.logits(theta, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ConfigError, match="Raise ipc"):
        network.logits(theta, torch.zeros(1, 3, 8, 8))


def test_gradient_is_that_of_the_ordinary_module() -> None:
    network = Network("convnet:width=4,depth=2", channels=1, size=8, classes=3, dtype=torch.float64)
    module = create("convnet:width=4,depth=2", channels=1, size=8, classes=3).double()
    x, y = torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 0])
    theta = parameters_to_vector(module.parameters()).detach()
    gradient, logits = network.gradient(theta, x, y)
    F.cross_entropy(module(x), y).backward()
    assert torch.allclose(gradient, torch.cat([p.grad.flatten() for p in module.parameters()]), rtol=1e-10, atol=1e-14)
    assert torch.allclose(logits, module(x), rtol=1e-12)
    assert not logits.requires_grad
