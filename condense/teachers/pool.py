"""A teacher: what a trained network says of images. Labels, distance from the statistics of its data, class maps."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense import rng
from condense.data.inputs import Inputs
from condense.errors import ConfigError, DataError
from condense.networks import batch_norms, create, hooked
from condense.objectives import statistics_distance
from condense.teachers.activation import class_map

AT_ONCE = 512
"""Images that go through a network at a time, where none sees another."""


@dataclass(frozen=True)
class Teacher:
    """A trained network, which becomes frozen and in evaluation mode; nothing here changes its running statistics.

    `name` is its canonical spec (`condense.networks.canonical`), `accuracy` the fraction of held-out images that it
    classifies right, None where there are none. Images x [n, ch, s, s] are preprocessed, of the network's device and
    floating type.
    """

    name: str
    module: nn.Module
    accuracy: float | None

    def __post_init__(self) -> None:
        self.module.eval().requires_grad_(False)

    def logits(self, x: Tensor, bn: Literal["eval", "batch"] = "eval") -> Tensor:
        """Logits [n, classes] without a graph, with the running statistics, or with those of x itself.

        Dropout is off in both. Under "batch" all of x is one batch.

        Raises:
            ConfigError: a single image, of which batch norm is to take the statistics.
        """
        with torch.no_grad():
            if bn == "eval":
                return torch.cat([self.module(part) for part in x.split(AT_ONCE)])
            if len(x) == 1 and batch_norms(self.module):
                raise ConfigError(
                    f"teacher {self.name!r}: batch norm cannot take the statistics of a single image. "
                    'Give two or more at a time, or take the running statistics (bn="eval")'
                )
            logits: Tensor = self._by_batch(x)
            return logits

    def describe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, classes] and R, the distance of x from the running statistics, from one pass; with a graph to x.

        R: `condense.objectives.statistics_distance`, over the batch norms in the order in which they run.

        Raises:
            ConfigError: the network has no batch norm.
        """
        norms = batch_norms(self.module)
        if not norms:
            raise ConfigError(
                f"teacher {self.name!r} has no batch norm, so it keeps no statistics of its data. Choose networks that "
                "have it: convnet, resnet18 or vgg11 with norm=batch, or torchvision's, such as torchvision:resnet18"
            )
        inputs: list[Tensor] = []
        running: list[tuple[Tensor, Tensor]] = []

        def keep(norm: nn.Module, seen: tuple[Tensor], _output: Any) -> None:
            inputs.append(seen[0])
            running.append((norm.running_mean, norm.running_var))  # type: ignore[arg-type]

        with hooked(norms, keep):
            logits = self.module(x)
        return logits, statistics_distance(inputs, running)

    def activation_map(self, x: Tensor, y: Tensor) -> Tensor:
        """Where in each image the network sees class y [n] (int64): [n, s, s], each from 0 to 1.

        `condense.teachers.class_map`, enlarged bilinearly to the image's side, then shifted and scaled. A constant map,
        such as one of a single position, becomes zeros. Gives no graph.

        Raises:
            ConfigError: as `class_map`.
        """
        pairs = zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True)
        maps = torch.cat([class_map(self.name, self.module, *pair) for pair in pairs])
        maps = F.interpolate(maps.unsqueeze(1), x.shape[-1], mode="bilinear").squeeze(1)
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        rounding = 8 * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())  # of a constant, enlarged
        return torch.where(high - low > rounding, (maps - low) / (high - low), 0)

    def state(self) -> dict[str, Tensor]:
        """The parameters and buffers by name; not copies."""
        return dict(self.module.state_dict())

    @classmethod
    def from_state(
        cls, name: str, state: Mapping[str, Tensor], *, channels: int, size: int, classes: int, accuracy: float | None
    ) -> Self:
        """The teacher that `state()` was read from, with these very tensors.

        Raises:
            ConfigError: as `condense.networks.create`.
            DataError: tensors of another network.
        """
        with rng.isolated(0, "teacher"):  # these weights are never used, but drawing them must not be noticed either
            module = create(name, channels=channels, size=size, classes=classes)
        try:
            module.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise DataError(f"the tensors are not those of network {name!r}: {error}") from error
        return cls(name, module, accuracy)

    @cached_property
    def _by_batch(self) -> nn.Module:
        """The same network, with the same parameters, whose batch norms have no running statistics."""
        shared = {id(tensor): tensor for tensor in (*self.module.parameters(), *self.module.buffers())}
        network = copy.deepcopy(self.module, shared)
        for norm in batch_norms(network):
            norm.running_mean = norm.running_var = None
        return network


def held_out_accuracy(module: nn.Module, inputs: Inputs, labels: Tensor) -> float | None:
    """Share in [0, 1] of the images whose largest logit is that of their label [n]; None without images.

    Leaves the module in evaluation mode.
    """
    if not len(inputs):
        return None
    module.eval()
    with torch.no_grad():
        rows = torch.arange(len(inputs)).split(AT_ONCE)
        hits = [(module(inputs[part]).argmax(1) == labels[part]).sum() for part in rows]
    return int(torch.stack(hits).sum()) / len(inputs)
