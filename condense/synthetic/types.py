"""What a condenser makes."""

from dataclasses import dataclass

from torch import Tensor

from condense.synthetic.label_store import LabelStore
from condense.synthetic.views import compensated, decode


@dataclass(frozen=True)
class DistilledSet:
    """A synthetic set as it is stored.

    `images` [n, ch, h, w] float32 in the preprocessed (normalised or whitened) space; `labels` [n] int64 for hard
    labels or [n, classes] float32 probabilities for soft ones; `lr` the learned inner learning rate, if there is one.
    Each stored image holds factor^2 images to train on. `store` has labels of their views, for training that plays
    them back; whatever else trains on the set takes `labels`.

    With `compensators` [K, M, ch, h, w], which add images to train on (`condense.synthetic.compensated`), factor is 1,
    and `labels` are those of all n (M + 1) of them.
    """

    images: Tensor
    labels: Tensor
    lr: float | None = None
    factor: int = 1
    store: LabelStore | None = None
    compensators: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def decoded(self) -> "DistilledSet":
        """The images [n factor^2, ch, h, w], or [n (M + 1), ch, h, w], to train on, with their labels."""
        if self.compensators is not None:
            return DistilledSet(compensated(self.images, self.compensators), self.labels, self.lr, store=self.store)
        labels = self.labels.repeat_interleave(self.factor**2, 0)
        return DistilledSet(decode(self.images, self.factor), labels, self.lr, store=self.store)
