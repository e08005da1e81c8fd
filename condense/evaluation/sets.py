"""What a network is trained on and what it is tested on."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from condense.errors import DataError
from condense.evaluation.protocols import Protocol
from condense.networks import images_per_epoch
from condense.synthetic import LabelStore

TEST_BATCH = 512
"""Images that go through a network at a time when it is tested."""
Preprocess = Callable[[Tensor], Tensor]


def _identity(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class _Images:
    """Images [n, ch, size, size] and their labels; `preprocess` maps a batch of images to what a network sees.

    Preprocessing happens batch by batch on the device, so a real set stays there as uint8. Images without `preprocess`
    are floating point and preprocessed already.
    """

    images: Tensor
    labels: Tensor
    preprocess: Preprocess = _identity

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device) -> Self:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def check(self, what: str, classes: int) -> None:
        """Raise DataError unless images and labels have the shapes, types and ranges that training needs."""
        shape = tuple(self.images.shape)
        if len(shape) != 4 or 0 in shape or shape[2] != shape[3]:
            raise DataError(f"{what}: images must be [n, channels, size, size] with n >= 1, not {list(shape)}.")
        if self.preprocess is _identity:
            if not self.images.is_floating_point():
                raise DataError(
                    f"{what}: images are {self.images.dtype} and nothing preprocesses them. "
                    "Give `preprocess`, or preprocessed float images."
                )
            if not bool(self.images.isfinite().all()):
                raise DataError(f"{what}: some pixels are NaN or infinite.")
        if self.labels.shape[:1] != shape[:1]:
            raise DataError(f"{what}: {shape[0]} images, but labels of shape {list(self.labels.shape)}.")
        if self.labels.ndim == 1:
            _check_hard(what, self.labels, classes)
        else:
            _check_soft(what, self.labels, classes)


def _check_hard(what: str, labels: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64:
        raise DataError(f"{what}: hard labels must be int64, not {labels.dtype}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{what}: labels lie in {low}..{high}; {classes} classes allow 0..{classes - 1}.")


def _check_soft(what: str, labels: Tensor, classes: int) -> None:
    if tuple(labels.shape[1:]) != (classes,) or not labels.is_floating_point():
        raise DataError(
            f"{what}: labels must be int64 [n] or floating point [n, {classes}], "
            f"not {labels.dtype} {list(labels.shape)}."
        )
    if not bool((labels >= 0).all()) or not bool(((labels.sum(1) - 1).abs() < 1e-3).all()):
        raise DataError(f"{what}: soft labels must be probabilities: each row >= 0 and with sum 1.")


@dataclass(frozen=True)
class TrainingSet(_Images):
    """A set to train on, distilled or real.

    `labels` are int64 [n], or probabilities [n, classes]; `lr` is the learning rate that was learned with the set,
    `store` what teachers said of its views, for protocols that distil.
    """

    lr: float | None = None
    store: LabelStore | None = None

    def played(self, protocol: Protocol) -> LabelStore | None:
        """The store, if training by this protocol plays it back."""
        return None if protocol.temperature is None else self.store

    def plan(self, protocol: Protocol) -> Protocol:
        """The protocol as it trains on this set."""
        store = self.played(protocol)
        return protocol if store is None else protocol.on_store(store)

    def updates(self, protocol: Protocol, model: nn.Module) -> int:
        """Steps of the optimiser of a network like `model` that is trained on this set by the protocol.

        Raises DataError for batch norm and a single image.
        """
        store = self.played(protocol)
        if store is not None:
            return store.views.epochs * len(store.views.batches)
        return protocol.steps(images_per_epoch(model, len(self), protocol.batch))

    def check(self, what: str, classes: int) -> None:
        super().check(what, classes)
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise DataError(f"{what}: the learned learning rate is {self.lr}; it must be positive and finite.")
        if self.store is not None and (fault := self.store.fault(len(self), self.images.shape[2], classes)):
            raise DataError(f"{what}: label store: {fault}.")


@dataclass(frozen=True)
class TestSet(_Images):
    """Images and int64 labels [n] that say how good a trained network is.

    They are read by `accuracy` alone. For a choice between settings give the validation split here, never the test
    split.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    def check(self, what: str, classes: int) -> None:
        super().check(what, classes)
        if self.labels.ndim != 1:
            raise DataError(f"{what}: labels must be int64 [n], not soft.")

    def accuracy(self, predict: Callable[[Tensor], Tensor], batch: int = TEST_BATCH) -> float:
        """Share in [0, 1] of the images whose largest logit in `predict(x)` [b, classes] is that of their label."""
        hits = torch.zeros((), dtype=torch.int64, device=self.labels.device)
        with torch.inference_mode():
            for images, labels in zip(torch.split(self.images, batch), torch.split(self.labels, batch), strict=True):
                hits += (predict(self.preprocess(images)).argmax(1) == labels).sum()
        return int(hits) / len(self)
