"""Networks by name: a spec string to a module."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from condense.errors import ConfigError
from condense.networks import torchvision_models
from condense.networks.classic import MLP, AlexNet, LeNet, PooledOptions
from condense.networks.convnet import ConvNet, ConvNetOptions
from condense.networks.options import Options
from condense.networks.resnet import ResNet18, ResNetOptions
from condense.networks.vgg import VGG11, VGGOptions
from condense.networks.vit import ViT, ViTOptions


class Family(NamedTuple):
    description: str
    options: type[Options]
    build: Callable[..., nn.Module]


FAMILIES: dict[str, Family] = {
    "convnet": Family("blocks of Conv3x3, norm, activation, pooling; then one Linear", ConvNetOptions, ConvNet),
    "mlp": Family("two hidden layers of 128 units", Options, MLP),
    "lenet": Family("LeNet-5: two convolutions, three Linear", PooledOptions, LeNet),
    "alexnet": Family("five convolutions, one Linear, no normalisation", PooledOptions, AlexNet),
    "vgg11": Family("eight convolutions with norm, one Linear", VGGOptions, VGG11),
    "resnet18": Family("residual network with a 3x3 stem", ResNetOptions, ResNet18),
    "vit": Family("small vision transformer", ViTOptions, ViT),
}

NETWORKS: dict[str, str] = {name: family.description for name, family in FAMILIES.items()} | {
    "torchvision:NAME": "any torchvision classification model, e.g. torchvision:mobilenet_v2",
}


def create(spec: str, *, channels: int, size: int, classes: int) -> nn.Module:
    """Build the network that `spec` names, with random weights from torch's global generator.

    Args:
        spec: "name" or "name:key=value,key=value", e.g. "convnet:width=32,norm=batch"; a name of `NETWORKS`, or a
            torchvision classification model, plain or as "torchvision:NAME" where both have the name.
        channels, size, classes: the images are [n, channels, size, size], the logits [n, classes].

    Raises:
        ConfigError: unknown name, option or value, or a network that does not take images of this size.
    """
    name, options = _parse(spec, size)
    if options is None:
        return torchvision_models.create(name, channels=channels, size=size, classes=classes)
    return FAMILIES[name].build(options, channels=channels, size=size, classes=classes)


def canonical(spec: str, *, channels: int, size: int, classes: int) -> str:  # noqa: ARG001 - arguments as create
    """The spec with every option spelt out: equal strings mean equal networks for these images.

    Raises:
        ConfigError: as `create` does for the spec itself.
    """
    name, options = _parse(spec, size)
    if options is None:
        return f"torchvision:{name}"
    return f"{name}:{options}" if str(options) else name


def _parse(spec: str, size: int) -> tuple[str, Options | None]:
    """Name and resolved options; a torchvision model has None for options."""
    name, _, text = spec.strip().partition(":")
    if name in FAMILIES:
        return name, FAMILIES[name].options.parse(name, text).resolve(size)
    if name == "torchvision":
        torchvision_models.check(text)
        return text, None
    torchvision_models.check(name, own=FAMILIES)
    if text:
        raise ConfigError(f"network {name!r} is torchvision's and has no options, but {text!r} was given.")
    return name, None
