"""Feature maps of a network, and groups of images in one go: against modules run by hand, and loops."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from condense import rng
from condense.errors import ConfigError
from condense.networks import Network, create

ON = {"channels": 1, "size": 8, "classes": 3}
ALONE = [
    *(f"convnet:width=4,norm={norm}" for norm in ("none", "instance", "group", "layer")),
    "lenet",
    "alexnet",
    "vgg11:width=4",
    "resnet18:width=4",
    "mlp",
    "vit:dim=12,depth=1",
]
BATCHED = [
    "convnet:width=4,norm=batch",
    "convnet:width=4,norm=batch,activation=swish,pooling=max",
    "vgg11:width=4,norm=batch",
    "resnet18:width=4,norm=batch",
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["none", "instance", "group", "batch", "layer"])
@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("leakyrelu", nn.LeakyReLU), ("swish", nn.SiLU)])
def test_the_maps_of_a_convnet_are_what_its_activations_put_out(norm: str, activation: str, kind: type) -> None:
    spec = f"convnet:width=4,depth=3,norm={norm},activation={activation}"
    network = Network(spec, dtype=torch.float64, **ON)
    with rng.isolated(3, "nets", 5):
        module = create(spec, **ON).double().train()
    x = draw(5, 1, 8, 8)
    maps, embedding = network.features(network.init(3, "nets", 5), x)
    expected = []
    for layer in module.features:
        x = layer(x)
        if isinstance(layer, kind):
            expected.append(x)
    assert [tuple(m.shape) for m in maps] == [(5, 4, 8, 8), (5, 4, 4, 4), (5, 4, 2, 2)]
    for actual, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(embedding, x.flatten(1), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("lenet", [(6, 28), (16, 10)]),
        ("alexnet", [(128, 32), (192, 16), (256, 8), (192, 8), (192, 8)]),
        ("vgg11:width=4", [(4, 32), (8, 16), (16, 8), (16, 8), (32, 4), (32, 4), (32, 2), (32, 2)]),
        (
            "resnet18:width=4",
            [(4, 32)] * 5 + [(8, 16)] * 4 + [(16, 8)] * 4 + [(32, 4)] * 4,
        ),
    ],
)
def test_the_maps_of_other_networks(spec: str, shapes: list[tuple[int, int]]) -> None:
    network = Network(spec, channels=3, size=32, classes=10)
    theta, x = network.init(0, "nets"), torch.rand(2, 3, 32, 32)
    maps, embedding = network.features(theta, x)
    assert [tuple(m.shape) for m in maps] == [(2, c, side, side) for c, side in shapes]
    assert all((m >= 0).all() and (m > 0).any() for m in maps), "after ReLU"
    assert torch.equal(embedding, network.embed(theta, x))


@pytest.mark.parametrize("name", ["vit:dim=12,depth=1", "mlp", "torchvision:convnext_tiny"])
def test_what_keeps_channels_last_or_has_no_convolutions_has_no_maps(name: str) -> None:
    network = Network(name, channels=3, size=32, classes=10)
    maps, embedding = network.features(network.init(0, "nets"), torch.rand(2, 3, 32, 32))
    assert maps == []
    assert embedding.shape[0] == 2


def test_the_gates_of_a_squeeze_and_excitation_are_no_maps() -> None:
    network = Network("torchvision:mobilenet_v3_small", channels=3, size=64, classes=10)
    maps, _ = network.features(network.init(0, "nets"), torch.rand(2, 3, 64, 64))
    assert len(maps) > 10
    assert all(m.ndim == 4 and m.shape[0] == 2 and m.shape[2] * m.shape[3] > 1 for m in maps)


def test_no_features_without_an_embedding_and_nothing_is_left_behind() -> None:
    network = Network("squeezenet1_1", channels=3, size=32, classes=3)
    with pytest.raises(ConfigError, match="has no embedding"):
        network.features(network.init(0, "nets"), torch.rand(2, 3, 32, 32))
    network = Network("convnet:width=4", **ON)
    with pytest.raises(RuntimeError):
        network.features(network.init(0, "nets"), torch.rand(2, 9, 8, 8))  # not that many channels
    assert not any(module._forward_hooks for module in network._body.modules())


@pytest.mark.parametrize("spec", ALONE + BATCHED)
def test_groups_in_one_go_equal_a_loop_over_them(spec: str) -> None:
    """The maps, the embedding, and the derivative of a random weighting of them all by the images."""
    network = Network(spec, dtype=torch.float64, **ON)
    theta = network.init(0, "nets")

    def features(x: Tensor) -> tuple[list[Tensor], Tensor]:
        return network.features(theta, x)

    def loop(x: Tensor) -> list[Tensor]:
        parts = [tree_leaves(features(group)) for group in x]
        return [torch.stack(leaves) for leaves in zip(*parts, strict=True)]

    results, gradients = [], []
    for at_once in (True, False):
        x = draw(3, 4, 1, 8, 8).requires_grad_()
        outputs = tree_leaves(network.by_group(features, x)) if at_once else loop(x)
        weighted = sum((out * draw(*out.shape, seed=k)).sum() for k, out in enumerate(outputs))
        (gradient,) = torch.autograd.grad(weighted, x)
        results.append([out.detach() for out in outputs])
        gradients.append(gradient)
    for actual, expected in zip(*results, strict=True):
        assert actual.shape[:2] == (3, 4)
        close(actual, expected)
    close(*gradients)


@pytest.mark.parametrize("spec", BATCHED)
def test_batch_norm_keeps_to_its_group(spec: str) -> None:
    network = Network(spec, dtype=torch.float64, **ON)
    theta = network.init(0, "nets")

    def embed(x: Tensor) -> Tensor:
        return network.embed(theta, x)

    x = draw(3, 4, 1, 8, 8)
    before = network.by_group(embed, x)
    assert not torch.allclose(before.flatten(0, 1), embed(x.flatten(0, 1))), "statistics of all images are others"
    x[1, 2] += 1
    after = network.by_group(embed, x)
    close(after[[0, 2]], before[[0, 2]])
    assert not torch.allclose(after[1, 0], before[1, 0])


def test_groups_of_a_network_that_works_in_place() -> None:
    """torchvision's activations overwrite their input, also under vmap. 28 batch norms of few numbers lose digits."""
    network = Network("torchvision:shufflenet_v2_x0_5", channels=3, size=64, classes=3, dtype=torch.float64)
    theta, x = network.init(0, "nets"), draw(2, 4, 3, 64, 64)

    def outputs_and_gradient(x: Tensor, grouped: bool) -> list[Tensor]:
        def features(x: Tensor) -> tuple[list[Tensor], Tensor]:
            return network.features(theta, x)

        x = x.clone().requires_grad_()
        leaves = tree_leaves(network.by_group(features, x) if grouped else features(x))
        (gradient,) = torch.autograd.grad(sum(leaf.square().sum() for leaf in leaves), x)
        return [*(leaf.detach() for leaf in leaves), gradient]

    together = outputs_and_gradient(x, grouped=True)
    assert len(together) > 20
    for g in range(2):
        for actual, expected in zip(together, outputs_and_gradient(x[g], grouped=False), strict=True):
            assert (actual[g] - expected).norm() < 1e-8 * expected.norm()
