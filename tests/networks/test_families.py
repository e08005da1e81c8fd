"""Every network of the small-image family: shapes, published sizes, and no dead ends on small images."""

import pytest
import torch
from torch import nn

from condense.errors import ConfigError
from condense.networks import NETWORKS, Network, create
from condense.networks.registry import FAMILIES

SMALL = ["convnet:width=4", "mlp", "lenet", "alexnet", "vgg11:width=4", "resnet18:width=4", "vit:dim=12,depth=1"]


def test_every_family_is_tested_and_described() -> None:
    assert {spec.partition(":")[0] for spec in SMALL} == set(FAMILIES)
    assert set(FAMILIES) | {"torchvision:NAME"} == set(NETWORKS)
    assert all(NETWORKS.values())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [8, 15, 28, 31, 32, 48, 64, 128])
def test_takes_any_size_channels_and_classes(name: str, size: int) -> None:
    for channels, classes in [(1, 2), (5, 101)]:
        with torch.device("meta"):  # shapes without arithmetic
            network = create(name, channels=channels, size=size, classes=classes)
            assert network(torch.empty(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("spec", SMALL)
def test_small_images_still_reach_the_logits(spec: str) -> None:
    """A map of one position under instance norm, or a pooling too many, would make all logits equal."""
    network = Network(spec, channels=1, size=8, classes=3)
    logits = network.logits(network.init(0, "test"), torch.randn(4, 1, 8, 8))
    assert logits.isfinite().all()
    assert (logits.std(0) > 1e-4).all()


# LeNet-5 as published for MNIST; ResNet18 and VGG11 as the public CIFAR implementations count them; the rest by hand.
@pytest.mark.parametrize(
    ("spec", "channels", "size", "published", "features"),
    [
        ("mlp", 3, 32, (3072 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 10, 128),
        ("lenet", 1, 28, 61_706, 84),
        ("lenet", 3, 32, 62_006, 84),
        ("alexnet", 3, 32, 1_872_202, 192 * 4 * 4),
        ("vgg11", 3, 32, 9_231_114, 512),
        ("vgg11:norm=batch", 3, 32, 9_231_114, 512),
        ("resnet18", 3, 32, 11_173_962, 512),
        ("resnet18:norm=batch", 3, 32, 11_173_962, 512),
        ("convnet", 3, 32, 320_010, 2048),
        ("vit", 3, 32, 192 * (48 + 1) + 192 * 66 + 6 * (12 * 192**2 + 13 * 192) + 2 * 192 + 193 * 10, 192),
    ],
)
def test_has_the_known_size_and_features(spec: str, channels: int, size: int, published: int, features: int) -> None:
    with torch.device("meta"):
        network = create(spec, channels=channels, size=size, classes=10)
    assert sum(p.numel() for p in network.parameters()) == published
    assert [m for m in network.modules() if isinstance(m, nn.Linear)][-1].in_features == features


@pytest.mark.parametrize("name", FAMILIES)
def test_has_no_dropout(name: str) -> None:
    with torch.device("meta"):
        network = create(name, channels=3, size=32, classes=10)
    assert not any(isinstance(m, nn.modules.dropout._DropoutNd) for m in network.modules())


def test_norm_option_changes_the_norm() -> None:
    for name in ("vgg11", "resnet18"):
        for norm, kind in [("instance", nn.GroupNorm), ("batch", nn.BatchNorm2d)]:
            with torch.device("meta"):
                network = create(f"{name}:width=4,norm={norm}", channels=1, size=8, classes=2)
            norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
            assert norms
            assert all(type(m) is kind for m in norms)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8 px, not 7 px"):
        create("alexnet", channels=1, size=7, classes=2)


def test_vit_sees_every_pixel_of_an_image_that_patches_do_not_cover_exactly() -> None:
    network = Network("vit:dim=6,depth=1,heads=1,patch=4", channels=1, size=10, classes=2)
    x = torch.randn(1, 1, 10, 10, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.logits(network.init(0, "test"), x)[0, 0], x)
    assert (gradient != 0).all()
