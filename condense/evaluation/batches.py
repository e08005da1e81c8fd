"""The batches that a network is trained on, each with its loss: drawn by the protocol, or played back from a store."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from condense.evaluation.augmentation import Augment, Mix
from condense.evaluation.protocols import Protocol
from condense.evaluation.sets import TrainingSet
from condense.objectives import distance_loss, divergence, logit_loss
from condense.rng import generator
from condense.synthetic import LabelStore


class Part(NamedTuple):
    """Images that go through the network together; `loss`(logits, targets) is what they add to that of their batch."""

    images: Tensor
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """One step of the optimiser, in this epoch."""

    epoch: int
    parts: list[Part]


def drawn(
    training: TrainingSet,
    protocol: Protocol,
    augment: Augment,
    mix: Mix | None,
    *,
    images: int,
    seed: int,
    stream: str,
    index: int,
) -> Iterator[Batch]:
    """Batches without end: each epoch the first so many `images` of a new order, augmented and mixed.

    The order of epoch e and the draws of step i have addresses of (seed, stream, index, e) and (seed, stream, index, i)
    alone. Under a temperature soft labels count as the logits log p, which are mixed as such; a probability of 0 is
    taken for the least positive number.
    """
    labels, loss = training.labels, F.cross_entropy
    if protocol.temperature is not None and labels.ndim == 2:
        labels = labels.clamp(min=torch.finfo(labels.dtype).tiny).log()
        loss = partial(divergence, temperature=protocol.temperature)
    steps = count()
    for epoch in count():
        order = torch.randperm(len(training), generator=generator(seed, f"{stream}.order.{index}", epoch))
        for rows in torch.split(order[:images].to(training.images.device), protocol.batch):
            step = next(steps)
            x, targets = training.preprocess(training.images[rows]), labels[rows]
            x = augment(x, generator(seed, f"{stream}.augment.{index}", step))
            if mix is not None:
                x, targets = mix(x, targets, generator(seed, f"{stream}.mix.{index}", step))
            yield Batch(epoch, [Part(x, targets, loss)])


def replayed(training: TrainingSet, store: LabelStore, temperature: float) -> Iterator[Batch]:
    """The batches of a store, from the first to its last, in the groups that the teachers saw."""
    images = training.preprocess(training.images)
    for epoch in range(store.views.epochs):
        for k, views in enumerate(store.views.batches):
            shown = store.views.show(images, epoch, k)
            values = store.values[epoch, views].to(images)
            own, partner = training.labels[shown.rows], training.labels[shown.partner_rows]
            parts = []
            for group in store.groups(len(values)):
                taught, part = values[group], len(values[group]) / len(values)
                loss = _store_loss(store, own[group], partner[group], shown.share, temperature, part)
                parts.append(Part(shown.x[group], taught, loss))
            yield Batch(epoch, parts)


def _store_loss(
    store: LabelStore, own: Tensor, partner: Tensor, share: float, temperature: float, part: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that the store's values are for, of a `part` of a batch."""

    def loss(z: Tensor, taught: Tensor) -> Tensor:
        if store.kind == "logits":
            return part * logit_loss(z, taught, own, partner, share, temperature=temperature, weight=store.weight)
        return part * distance_loss(z, taught, own, partner, share, weight=store.weight)

    return loss
