"""Where in an image a network sees a class.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, arXiv 1512.04150.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from condense.errors import ConfigError
from condense.networks import hooked

TOLERANCE = 1e-4
"""Relative error up to which a pooled or flattened map is taken for the input of the classifier."""


def class_map(name: str, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """M [n, h, w]: what each position of the last feature map F [n, c, h, w] adds to the logit of class y [n] (int64).

    F averaged, then Linear: M_ij = sum_c w_yc F_cij, and mean_ij M_ij + b_y is the logit.
    F flattened, then Linear: M_ij = sum_c w_ycij F_cij, and sum_ij M_ij + b_y is the logit.

    `module` is in evaluation mode; `name` is its name in messages. Gives no graph.

    Raises:
        ConfigError: the network does not end in a Linear layer that sees a feature map.
    """
    ending = _ending(module, x[:2])
    if ending is None:
        raise ConfigError(
            f"network {name!r} has no class activation maps: it does not end in a Linear layer that sees a feature "
            "map, averaged or flattened. Choose one that does, such as convnet, resnet18, vgg11 or torchvision:resnet50"
        )
    source, linear = ending
    runs = last_runs(ending, module, x)
    (features, *_), _ = runs[linear]
    maps = runs[source][1]
    positions = maps.shape[2:] if features.shape[1] == maps[0].numel() else (1, 1)
    weights = linear.weight.detach()[y].unflatten(1, (-1, *positions))
    found: Tensor = (weights * maps).sum(1)
    return found


def _ending(module: nn.Module, x: Tensor) -> tuple[nn.Module, nn.Linear] | None:
    """The part that puts out the last feature map, and the Linear that gives the logits; None without them.

    Found by trying: the map, averaged or flattened, is what the Linear sees. Of several, the last; one with a single
    position, which may be the pooling, only if there is no other.
    """
    runs = last_runs(module.modules(), module, x)
    linear = classifier(module, runs)
    if linear is None:
        return None
    (features, *_), _ = runs[linear]
    maps = {part: out for part, (_, out) in reversed(runs.items()) if isinstance(out, Tensor) and out.ndim == 4}
    seen = [part for part, out in maps.items() if _same(out.mean((2, 3)), features) or _same(out.flatten(1), features)]
    seen.sort(key=lambda part: maps[part].shape[2:].numel() == 1)
    return (seen[0], linear) if seen else None


def last_runs(parts: Iterable[nn.Module], module: nn.Module, x: Tensor) -> dict[nn.Module, tuple[Any, Any]]:
    """Inputs and output of the last run of each of the parts, in the order of these, in one pass of x."""
    runs: dict[nn.Module, tuple[Any, Any]] = {}

    def keep(part: nn.Module, inputs: Any, output: Any) -> None:
        runs.pop(part, None)
        runs[part] = inputs, output

    with torch.no_grad(), hooked(parts, keep):
        module(x)
    return runs


def classifier(module: nn.Module, runs: Mapping[nn.Module, tuple[Any, Any]]) -> nn.Linear | None:
    """The Linear layer that put out the module's logits in the `last_runs` of all its parts; None if no such did."""
    logits = runs[module][1]
    return next((part for part, (_, out) in runs.items() if isinstance(part, nn.Linear) and out is logits), None)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= TOLERANCE * b.norm())
