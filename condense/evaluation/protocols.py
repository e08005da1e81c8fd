"""Evaluation protocols by name: everything that decides how a fresh network is trained on a set."""

import math
import tomllib
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from condense.errors import ConfigError, unknown
from condense.resources import config_path
from condense.synthetic import LabelStore

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Augmentation = Literal["none", "dsa", "composed", "dc", "crop_flip", "standard"]

YOUNGER = ("schedule", "horizon", "mixup", "temperature")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Protocol:
    """Training on batches of `batch` images, each epoch in a new order, the last partial batch kept.

    It ends after `epochs` passes or after `updates` steps: a protocol has one of the two. The learning rate is `lr`,
    unless `learned_lr` and the set brings its own. A protocol with `lrs` instead tries these, and with `learned_lr` the
    set's own too, on one pilot network each, and takes the one with the highest validation accuracy.

    `optimizer` is SGD with `momentum`, or AdamW with `momentum` for beta_1 and beta_2 = 0.999. By the `schedule`
    "steps" the learning rate is multiplied by `decay_factor` at each of the fractions `decay_at` of the training,
    before the first epoch e >= fraction * epochs (e = 0, 1, ...), or step of `updates`; by "cosine" it is
    lr / 2 (1 + cos(pi e / (horizon epochs))) in epoch e. Either way inside the one optimizer: its state goes on.

    `augmentation` of the training batches: "dsa" with the strategy of the run; "composed", the operators of that
    strategy but cutout as IDC composes them; "dc" as DC does for MNIST; "crop_flip"; "standard", the ImageNet recipe;
    or "none". After it, with probability `cutmix`, a batch is mixed (`condense.augment.cutmix`), or every batch by
    `condense.augment.mixup` with the Beta parameter `mixup`.

    A protocol with a `temperature` distils. A set with a label store is then trained on the store's epochs, batches and
    views, with what the teachers said of them; soft labels p are taken for a teacher's logits log p; hard labels are
    learned by cross-entropy, as everywhere.

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
    schedule: Literal["steps", "cosine"] = "steps"
    decay_at: Annotated[tuple[Fraction, ...], Field(strict=False)] = ()
    decay_factor: Positive | None = None
    horizon: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    augmentation: Augmentation
    cutmix: Fraction = 0.0
    mixup: Positive | None = None
    temperature: Positive | None = None
    networks: Count

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("a protocol has either epochs or updates")
        if (self.full_data_epochs is None) != (self.epochs is None):
            raise ValueError("full_data_epochs belongs to epochs")
        if (self.lr is None) != bool(self.lrs):
            raise ValueError("a protocol has either lr or lrs")
        if bool(self.decay_at) != (self.decay_factor is not None):
            raise ValueError("decay_at and decay_factor belong together")
        if (self.schedule == "cosine") != (self.horizon is not None) or (self.horizon and self.decay_at):
            raise ValueError("a cosine has a horizon, and steps have decay_at")
        if self.updates and (self.schedule == "cosine" or self.temperature is not None):
            raise ValueError("a cosine and a label store go by epochs, not by updates")
        if self.cutmix and self.mixup is not None:
            raise ValueError("a protocol has either cutmix or mixup")
        return self

    def steps(self, n: int) -> int:
        """Updates of a network that is trained on n images."""
        return self.updates or self._epochs * self._per_epoch(n)

    def rate(self, lr: float, epoch: int, step: int) -> float:
        """The learning rate of a step, which is in this epoch, in training that begins with `lr`; from 0, both."""
        done, whole = (step, self.updates) if self.updates else (epoch, self._epochs)
        if self.horizon is not None:
            return lr / 2 * (1 + math.cos(math.pi * done / (self.horizon * whole)))
        for fraction in self.decay_at:
            if done >= math.ceil(fraction * whole):
                assert self.decay_factor is not None
                lr *= self.decay_factor
        return lr

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

    def on_store(self, store: LabelStore) -> "Protocol":
        """The protocol as it plays back a store: with its epochs and batches."""
        return replace(self, epochs=store.views.epochs, batch=store.views.batch)

    def at_first_rate(self) -> "Protocol":
        """The protocol at its first learning rate, without a choice."""
        return replace(self, lr=self.lr or self.lrs[0], lrs=(), learned_lr=False)

    def identity(self) -> dict[str, Any]:
        """What decides a training, for the cache. Younger keys are left out where they change nothing, so that older
        evaluations are still found."""
        default = {field.name: field.default for field in fields(self)}
        return {key: value for key, value in asdict(self).items() if key not in YOUNGER or value != default[key]}

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
