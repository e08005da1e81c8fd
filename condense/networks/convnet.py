"""ConvNet: the network that dataset distillation is measured on, as DC defined it (arXiv 2006.05929)."""

import math
from typing import Literal, Self

from pydantic import PositiveInt
from torch import Tensor, nn

from condense.errors import ConfigError
from condense.networks.options import Options
from condense.networks.parts import channel_norm, first_padding, padded_size

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leakyrelu": nn.LeakyReLU,  # slope 0.01
    "swish": nn.SiLU,
}
POOLINGS: dict[str, type[nn.MaxPool2d] | type[nn.AvgPool2d]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


class ConvNetOptions(Options):
    """Depth follows the image side if not given: max(2, round(log2 side) - 2), so 3 at 28 and 32 px, 4 at 64 px."""

    width: PositiveInt = 128
    depth: PositiveInt | None = None
    norm: Literal["none", "instance", "group", "batch", "layer"] = "instance"
    pooling: Literal["none", "max", "avg"] = "avg"
    activation: Literal["relu", "sigmoid", "leakyrelu", "swish"] = "relu"

    def resolve(self, size: int) -> Self:
        depth = self.depth or max(2, round(math.log2(size)) - 2)
        if self.pooling != "none" and padded_size(size) >> depth < 1:
            raise ConfigError(
                f"convnet: depth {depth} halves images of {size} px to nothing; "
                f"at most depth {int(math.log2(padded_size(size)))}, or pooling=none."
            )
        if self.norm == "group" and self.width % 4:
            raise ConfigError(f"convnet: norm=group has 4 groups, so width must be a multiple of 4, not {self.width}.")
        return self.model_copy(update={"depth": depth})


class ConvNet(nn.Module):
    """`depth` blocks of Conv3x3 (`width` channels, pad 1, bias), norm, activation, 2x2 pooling; flatten; Linear.

    Images [n, channels, size, size] to logits [n, classes]. At 28 px the first convolution pads 3, so 28 becomes 32.
    """

    def __init__(self, options: ConvNetOptions, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        assert options.depth is not None
        layers: list[nn.Module] = []
        padding = first_padding(size, 3)
        size = padded_size(size)
        for _ in range(options.depth):
            layers.append(nn.Conv2d(channels, options.width, 3, padding=padding))
            if options.norm == "layer":
                layers.append(nn.LayerNorm([options.width, size, size]))
            else:
                layers.append(channel_norm(options.norm, options.width))
            layers.append(ACTIVATIONS[options.activation]())
            if options.pooling != "none":
                layers.append(POOLINGS[options.pooling](2))
                size //= 2
            channels, padding = options.width, 1
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(options.width * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
