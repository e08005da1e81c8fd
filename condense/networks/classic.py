"""MLP, LeNet and AlexNet, in the small-image forms of DC (arXiv 2006.05929)."""

from torch import Tensor, nn

from condense.networks.options import Options
from condense.networks.parts import first_padding, padded_size


class PooledOptions(Options):
    """Nothing to choose; below 8 px the poolings would leave no map."""

    smallest = 8


class MLP(nn.Sequential):
    """Two hidden layers of 128 ReLU units: images [n, channels, size, size] to logits [n, classes]."""

    def __init__(self, _: Options, *, channels: int, size: int, classes: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(channels * size * size, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, classes),
        )


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling: images [n, channels, size, size] to logits [n, classes].

    Two 5x5 convolutions (6 and 16 channels), each halved by pooling, and three Linear layers. The first convolution
    pads 2 below 32 px, as LeNet does at 28 px; the second pads 2 below 28 px, where little would be left otherwise.
    """

    def __init__(self, _: PooledOptions, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        first, second = 2 if size < 32 else 0, 2 if size < 28 else 0
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=first),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=second),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        side = (size + 2 * first - 4) // 2
        side = (side + 2 * second - 4) // 2
        self.classifier = nn.Sequential(
            nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class AlexNet(nn.Module):
    """Five convolutions, three 2x2 max poolings, one Linear, no normalisation and no dropout.

    Images [n, channels, size, size] to logits [n, classes]. At 28 px the first convolution pads to 32.
    """

    def __init__(self, _: PooledOptions, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 5, padding=first_padding(size, 5)),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(192 * (padded_size(size) // 8) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
