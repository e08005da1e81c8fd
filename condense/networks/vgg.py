"""VGG11 (arXiv 1409.1556) in the small-image form of DC (arXiv 2006.05929)."""

import math
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from condense.networks.options import Options
from condense.networks.parts import channel_norm, first_padding, padded_size

# Channels of each convolution in units of `width`; a block ends with a pooling.
BLOCKS = ((1,), (2,), (4, 4), (8, 8), (8, 8))


class VGGOptions(Options):
    width: PositiveInt = 64
    norm: Literal["instance", "batch"] = "instance"
    smallest = 8


class VGG11(nn.Module):
    """Eight convolutions 3x3 in five blocks, each with norm and ReLU, a 2x2 max pooling per block, one Linear.

    Images [n, channels, size, size] to logits [n, classes]. At 28 px the first convolution pads to 32. Below 32 px
    the first poolings are left out, so that the last one reaches 1x1; above, the last maps are averaged.
    """

    def __init__(self, options: VGGOptions, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        poolings = min(len(BLOCKS), int(math.log2(padded_size(size))))
        padding = first_padding(size, 3)
        layers: list[nn.Module] = []
        for index, block in enumerate(BLOCKS):
            for multiple in block:
                width = options.width * multiple
                layers += [nn.Conv2d(channels, width, 3, padding=padding), channel_norm(options.norm, width), nn.ReLU()]
                channels, padding = width, 1
            if index >= len(BLOCKS) - poolings:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits
