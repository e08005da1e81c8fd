"""Classification models of torchvision, by its names for them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from condense.errors import ConfigError, unknown


def check(name: str, own: Iterable[str] = ()) -> None:
    """Raise ConfigError if torchvision has no classification model of this name; `own` are further names to offer."""
    names = _names()
    if name not in names:
        raise ConfigError(unknown("network", name, {*names, *own}))


def create(name: str, *, channels: int, size: int, classes: int) -> nn.Module:
    """torchvision's model with random weights, for images [n, channels, size, size].

    Two adaptations: a vision transformer gets its positions for `size`, and for other than 3 channels the first
    convolution is rebuilt (with torch's default initialisation). Auxiliary classifiers are left out.

    Raises:
        ConfigError: the model cannot take images of this size.
    """
    from condense._torchvision import torchvision  # slow to import, and few runs need it

    extra: dict[str, Any] = {}
    if name.startswith("vit_"):
        extra["image_size"] = size
    if name in ("googlenet", "inception_v3"):
        extra |= {"aux_logits": False, "init_weights": True}
    try:
        module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **extra)
        if channels != 3:
            _rebuild_first_convolution(module, channels)
        _spell_out_layer_norms(module)
        _dry_run(module, channels, size)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"torchvision's {name!r} cannot take {channels}-channel images of {size} px ({error}). "
            "Choose another network or larger images."
        ) from error
    return module


def _names() -> list[str]:
    from condense._torchvision import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _rebuild_first_convolution(module: nn.Module, channels: int) -> None:
    path, old = next((path, m) for path, m in module.named_modules() if isinstance(m, nn.Conv2d))
    assert isinstance(old.padding, tuple)
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)  # type: ignore[arg-type]
    module.set_submodule(path, new)


def _spell_out_layer_norms(module: nn.Module) -> None:
    """Write ConvNeXt's LayerNorm2d, a subclass of LayerNorm, as a LayerNorm between two permutations."""
    from condense._torchvision import torchvision

    for path, old in list(module.named_modules()):
        if isinstance(old, torchvision.models.convnext.LayerNorm2d):
            norm = nn.LayerNorm(old.normalized_shape, old.eps)
            to, back = torchvision.ops.Permute([0, 2, 3, 1]), torchvision.ops.Permute([0, 3, 1, 2])
            module.set_submodule(path, nn.Sequential(to, norm, back))


def _dry_run(module: nn.Module, channels: int, size: int) -> None:
    """Shapes only: one forward pass on the meta device, in evaluation mode, which computes nothing."""
    tensors = {name: t.to("meta") for name, t in (*module.named_parameters(), *module.named_buffers())}
    training = module.training
    functional_call(module.eval(), tensors, torch.empty(2, channels, size, size, device="meta"))
    module.train(training)
