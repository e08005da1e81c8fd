"""Fresh networks to evaluate on: named ones, or whatever a user's function makes."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from condense.errors import ConfigError
from condense.evaluation.protocols import Protocol
from condense.evaluation.sets import TrainingSet
from condense.networks import FAMILIES, CompiledNetwork, canonical, compiling_pays, create, operations
from condense.rng import isolated

Factory = Callable[[], nn.Module]
NetworkLike = str | Factory
"""A spec of condense.networks, or a function without arguments (a class will do) that makes a network."""


def fresh_networks(network: NetworkLike, training: TrainingSet, classes: int) -> tuple[str, Factory]:
    """The name of a network, and what makes a new one each time, with weights from torch's global generator.

    Raises ConfigError for an unknown spec, and for a function that makes something else than a new module with logits
    [b, classes] for the images of `training`.
    """
    if isinstance(network, str):
        channels, size = training.images.shape[1:3]
        settings = {"channels": channels, "size": size, "classes": classes}
        return canonical(network, **settings), partial(create, network, **settings)
    name = getattr(network, "__name__", type(network).__name__)
    if isinstance(network, nn.Module) or not callable(network):
        raise ConfigError(
            f"network {name!r} is one network, but each evaluation trains several new ones: give a function that makes "
            "them, for example the class, or lambda: MyNet(width=32)."
        )
    with isolated(0, "evaluation.check"):
        _check(name, network, training.preprocess(training.images[:2]), classes)
    return name, network


def compiled_network(
    network: NetworkLike, training: TrainingSet, classes: int, protocol: Protocol, device: torch.device
) -> CompiledNetwork | None:
    """The same network compiled, if that pays for all networks of the protocol; else None.

    None too for what a flat parameter vector does not describe: functions that make networks, torchvision's models, and
    whatever behaves in training otherwise than in a test, as batch norm and dropout do. And for protocols that distil,
    whose losses are others.
    """
    if protocol.temperature is not None or not isinstance(network, str) or network.partition(":")[0] not in FAMILIES:
        return None
    channels, size = training.images.shape[1:3]
    settings = {"channels": channels, "size": size, "classes": classes}
    with isolated(0, "evaluation.check"):
        parts = list(create(network, **settings).modules())
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm | nn.Dropout) for part in parts):
        return None
    images = protocol.networks * protocol.steps(len(training)) * min(protocol.batch, len(training))
    if not compiling_pays(images * operations(network, **settings), device):
        return None
    return CompiledNetwork(network, channels=channels, size=size, classes=classes, device=device)


def _check(name: str, make: Factory, example: Tensor, classes: int) -> None:
    first, second = make(), make()
    for made in (first, second):
        if not isinstance(made, nn.Module):
            raise ConfigError(f"network {name!r} gives {type(made).__name__}, not a torch.nn.Module.")
    if {id(parameter) for parameter in first.parameters()} & {id(parameter) for parameter in second.parameters()}:
        raise ConfigError(
            f"network {name!r} gives the same parameters twice; each call must make a new network, or a test would be "
            "of one that has been trained before."
        )
    shape = list(example.shape)
    try:
        with torch.inference_mode():
            logits = first.to(example.device).eval()(example)
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"network {name!r} does not take images {shape}: {error}") from error
    if not isinstance(logits, Tensor) or list(logits.shape) != [shape[0], classes]:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        wanted = [shape[0], classes]
        raise ConfigError(f"network {name!r} gives {found} for images {shape}; it must give logits {wanted}.")
