"""ResNet18 (arXiv 1512.03385) in the small-image form: a 3x3 stem of stride 1 and no max pooling."""

import math
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from condense.networks.options import Options
from condense.networks.parts import channel_norm

Norm = Literal["instance", "batch"]


class ResNetOptions(Options):
    width: PositiveInt = 64
    norm: Norm = "instance"
    smallest = 8


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            channel_norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            channel_norm(norm, width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), channel_norm(norm, width))

        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return y


class ResNet18(nn.Module):
    """Stem and eight residual blocks of width 64, 64, 128, 128, 256, 256, 512, 512; average over positions; Linear.

    Images [n, channels, size, size] to logits [n, classes]. Three blocks halve the map. Below 16 px the first of these
    keep it, so that the last maps are at least 2x2: over a single position instance norm would erase its input.
    """

    def __init__(self, options: ResNetOptions, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        halvings = min(3, int(math.log2(size)) - 1)
        width = options.width
        layers = [nn.Conv2d(channels, width, 3, padding=1, bias=False), channel_norm(options.norm, width), nn.ReLU()]
        before = width
        for stage in range(4):
            width = options.width << stage
            stride = 2 if stage > 3 - halvings else 1
            layers += [Block(before, width, stride, options.norm), Block(width, width, 1, options.norm)]
            before = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits
