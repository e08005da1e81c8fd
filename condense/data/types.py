"""What a real data set is here: tensors on one device, and the facts about them that travel with a result."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images [n, ch, h, w] (uint8 in 0..255, or float32 in [0, 1]) and labels [n] (int64)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class RealData:
    """A labelled data set: `train` for learning, `validation` for every choice, `test` for the last number only.

    `sha256` is over the train and test images and labels as loaded, before the validation split is taken.
    `source` says where the files came from, `mirrored` whether a left-right flip keeps the class (not so for digits).
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    sha256: str
    source: str
    mirrored: bool

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> int:
        return self.train.images.shape[2]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device) -> "RealData":
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )
