"""What a condenser makes."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DistilledSet:
    """A synthetic set, ready to train on.

    `images` [n, ch, h, w] float32 in the preprocessed (normalised or whitened) space; `labels` [n] int64 for hard
    labels or [n, classes] float32 probabilities for soft ones; `lr` the learned inner learning rate, if there is one.
    """

    images: Tensor
    labels: Tensor
    lr: float | None = None

    def __len__(self) -> int:
        return self.images.shape[0]
