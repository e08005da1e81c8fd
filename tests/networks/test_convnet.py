"""ConvNet against published parameter counts and against its formula written with plain functions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from condense.errors import ConfigError
from condense.networks import Network, canonical, create
from condense.rng import isolated


@pytest.mark.parametrize(
    ("channels", "size", "classes", "published"),
    [(1, 28, 10, 317_706), (3, 32, 10, 320_010), (3, 32, 100, 504_420), (3, 64, 200, 857_160), (3, 128, 10, 615_690)],
    ids=["mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet-subset"],
)
def test_has_the_published_number_of_parameters(channels: int, size: int, classes: int, published: int) -> None:
    with torch.device("meta"):
        network = create("convnet", channels=channels, size=size, classes=classes)
    assert sum(p.numel() for p in network.parameters()) == published


@pytest.mark.parametrize(("size", "depth"), [(8, 2), (16, 2), (20, 2), (28, 3), (32, 3), (64, 4), (96, 5), (128, 5)])
def test_depth_follows_the_image_size(size: int, depth: int) -> None:
    assert f",depth={depth}," in canonical("convnet", channels=3, size=size, classes=10)


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("norm", ["none", "instance", "group", "batch", "layer"])
def test_computes_its_formula(norm: str, size: int) -> None:
    network = Network(f"convnet:width=8,depth=2,norm={norm}", channels=2, size=size, classes=3, dtype=torch.float64)
    theta = network.init(0, "test")
    theta = theta + 0.1 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.randn(4, 2, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = list(network.split(theta).values())

    h = F.pad(x, (2, 2, 2, 2)) if size == 28 else x
    for _ in range(2):
        h = F.conv2d(h, parameters.pop(0), parameters.pop(0), padding=1)
        if norm != "none":
            scale, shift = parameters.pop(0), parameters.pop(0)
            if norm != "layer":
                scale, shift = scale[:, None, None], shift[:, None, None]
            h = _standardised(h, norm) * scale + shift
        h = F.avg_pool2d(h.clamp(min=0), 2)
    weight, bias = parameters
    torch.testing.assert_close(network.logits(theta, x), h.flatten(1) @ weight.T + bias, rtol=1e-9, atol=1e-9)


def _standardised(h: Tensor, norm: str) -> Tensor:
    n, c, height, width = h.shape
    view, dims = {
        "instance": (h, (2, 3)),
        "group": (h.view(n, 4, c // 4, height, width), (2, 3, 4)),
        "batch": (h, (0, 2, 3)),
        "layer": (h, (1, 2, 3)),
    }[norm]
    mean = view.mean(dims, keepdim=True)
    variance = ((view - mean) ** 2).mean(dims, keepdim=True)
    return ((view - mean) / (variance + 1e-5).sqrt()).view(h.shape)


def test_layer_norm_has_a_parameter_per_element() -> None:
    network = create("convnet:norm=layer,width=4", channels=1, size=8, classes=2)
    assert [p.shape for p in network.parameters() if p.dim() == 3] == [(4, 8, 8)] * 2 + [(4, 4, 4)] * 2


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", F.relu),
        ("sigmoid", torch.sigmoid),
        ("leakyrelu", lambda x: torch.where(x < 0, 0.01 * x, x)),
        ("swish", F.silu),
    ],
)
@pytest.mark.parametrize(("pooling", "pool"), [("max", F.max_pool2d), ("avg", F.avg_pool2d), ("none", lambda x, _: x)])
def test_activation_and_pooling_are_what_they_say(activation: str, function, pooling: str, pool) -> None:  # type: ignore[no-untyped-def]
    spec = f"convnet:width=4,depth=1,norm=none,activation={activation},pooling={pooling}"
    network = Network(spec, channels=1, size=8, classes=2)
    theta, x = network.init(0, "test"), torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kernel, bias, weight, shift = network.split(theta).values()
    h = pool(function(F.conv2d(x, kernel, bias, padding=1)), 2)
    torch.testing.assert_close(network.logits(theta, x), h.flatten(1) @ weight.T + shift)


def test_starts_from_the_default_initialisation() -> None:
    with isolated(0, "test"):
        parameters = dict(create("convnet", channels=3, size=32, classes=10).named_parameters())
    for kernel, fan_in in [("features.0", 3 * 9), ("features.4", 128 * 9), ("classifier", 2048)]:
        for kind in ("weight", "bias"):
            values = parameters[f"{kernel}.{kind}"].abs()
            assert 0.8 * fan_in**-0.5 < values.max() <= fan_in**-0.5  # U(-1/sqrt(fan_in), 1/sqrt(fan_in))
    assert parameters["features.1.weight"].eq(1).all()
    assert parameters["features.1.bias"].eq(0).all()


def test_the_last_possible_depth_works_and_the_next_is_refused() -> None:
    with torch.device("meta"):
        network = create("convnet:depth=5", channels=1, size=28, classes=2)
        assert network(torch.empty(2, 1, 28, 28)).shape == (2, 2)
    with pytest.raises(ConfigError, match=r"depth 6 halves images of 28 px to nothing; at most depth 5"):
        create("convnet:depth=6", channels=1, size=28, classes=2)
    with torch.device("meta"):
        create("convnet:depth=6,pooling=none,width=4", channels=1, size=28, classes=2)
