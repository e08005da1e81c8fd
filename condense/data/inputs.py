"""Real images as network inputs, batch by batch."""

import torch
from torch import Tensor

from condense.data.preprocess import CHUNK, Preprocessing
from condense.data.types import Split


class Inputs:
    """`inputs[index]` is preprocessed images [b, ch, h, w] of a split.

    Mean and std are applied when asked for, so the split stays uint8. Whitening is a product with a [D, D] matrix,
    which for a batch costs as much as a training step: it is done once here, and takes n * D * 4 bytes.
    """

    def __init__(self, split: Split, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._images = split.images
        self._whitened: Tensor | None = None
        if preprocessing.kind == "zca":
            self._whitened = torch.cat([preprocessing(chunk) for chunk in split.images.split(CHUNK)])

    def __len__(self) -> int:
        return self._images.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        index = index.to(self._images.device, non_blocking=True)
        if self._whitened is not None:
            return self._whitened[index]
        return self._preprocessing(self._images[index])
