"""Evaluation protocols by name: everything that decides how a fresh network is trained on a set."""

import math
import tomllib
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from condense.errors import ConfigError, unknown
from condense.resources import config_path

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Augmentation = Literal["none", "dsa", "composed", "dc", "crop_flip", "standard"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Protocol:
    """Training on batches of `batch` images, each epoch in a new order, the last partial batch kept.

    It ends after `epochs` passes or after `updates` steps: a protocol has one of the two. The learning rate is `lr`,
    unless `learned_lr` and the set brings its own. A protocol with `lrs` instead tries these, and with `learned_lr` the
    set's own too, on one pilot network each, and takes the one with the highest validation accuracy.

    `optimizer` is SGD with `momentum`, or AdamW with `momentum` for beta_1 and beta_2 = 0.999. The learning rate is
    multiplied by `decay_factor` at each of the fractions `decay_at` of the training, before the first epoch
    e >= fraction * epochs (e = 0, 1, ...), or step of `updates`, inside the one optimizer: its state goes on.

    `augmentation` of the training batches: "dsa" with the strategy of the run; "composed", the operators of that
    strategy but cutout as IDC composes them; "dc" as DC does for MNIST; "crop_flip"; "standard", the ImageNet recipe;
    or "none". After it, with probability `cutmix`, a batch is mixed (`condense.augment.cutmix`).

    `networks` fresh networks make one number. A whole real training set gets `full_data_epochs` instead of `epochs`,
    and `updates` as any other. `source` cites the paper, `notes` says what to know before comparing with published
    numbers.
    """

    name: str
    source: str
    summary: str
    notes: str
    epochs: Count | None = None
    updates: Count | None = None
    full_data_epochs: Count | None = None
    batch: Annotated[int, Field(ge=2)]
    lr: Positive | None = None
    lrs: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    learned_lr: bool
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    decay_at: Annotated[tuple[Fraction, ...], Field(strict=False)]
    decay_factor: Positive
    augmentation: Augmentation
    cutmix: Fraction = 0.0
    networks: Count

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("a protocol has either epochs or updates")
        if (self.full_data_epochs is None) != (self.epochs is None):
            raise ValueError("full_data_epochs belongs to epochs")
        if (self.lr is None) != bool(self.lrs):
            raise ValueError("a protocol has either lr or lrs")
        return self

    def steps(self, n: int) -> int:
        """Updates of a network that is trained on n images."""
        return self.updates or self._epochs * self._per_epoch(n)

    def decay_steps(self, n: int) -> tuple[int, ...]:
        """The first steps (from 0) at each lower learning rate, on n images."""
        if self.updates:
            return tuple(math.ceil(fraction * self.updates) for fraction in self.decay_at)
        return tuple(math.ceil(fraction * self._epochs) * self._per_epoch(n) for fraction in self.decay_at)

    def rates(self, learned: float | None) -> tuple[float, ...]:
        """The learning rates that a set with this learned one, if any, may be trained with; in rising order."""
        own = (learned,) if self.learned_lr and learned is not None else ()
        if self.lrs:
            return tuple(sorted({*self.lrs, *own}))
        assert self.lr is not None
        return own or (self.lr,)

    def on_full_data(self) -> "Protocol":
        """The protocol for a whole real training set: other epochs, or the same updates."""
        return self if self.updates else replace(self, epochs=self.full_data_epochs)

    def at_first_rate(self) -> "Protocol":
        """The protocol at its first learning rate, without a choice."""
        return replace(self, lr=self.lr or self.lrs[0], lrs=(), learned_lr=False)

    def _per_epoch(self, n: int) -> int:
        return math.ceil(n / self.batch)

    @property
    def _epochs(self) -> int:
        assert self.epochs is not None
        return self.epochs


def load_protocols() -> dict[str, Protocol]:
    """Every protocol of configs/protocols.toml by its name."""
    tables = tomllib.loads(config_path("protocols").read_text(encoding="utf-8"))
    return {name: Protocol(name=name, **table) for name, table in tables.items()}


def load_protocol(name: str) -> Protocol:
    """One protocol by its name. Raises ConfigError with the closest names if there is none."""
    protocols = load_protocols()
    if name not in protocols:
        raise ConfigError(unknown("evaluation protocol", name, protocols))
    return protocols[name]
