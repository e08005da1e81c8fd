"""Evaluation protocols by name: everything that decides how a fresh network is trained on a set."""

import math
import tomllib
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from condense.errors import ConfigError, unknown
from condense.resources import config_path

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Protocol:
    """SGD on batches of `batch` images for `epochs` passes, each in a new order, the last partial batch kept.

    `lr` is the learning rate, unless `learned_lr` and the set brings its own. It is multiplied by `decay_factor` once,
    before the first epoch e >= decay_at * epochs (e = 0, 1, ...), inside the one optimizer: the momentum goes on.
    `augmentation` of the training batches: "dsa" with the strategy of the run, "dc" as DC does for MNIST, or "none".
    `networks` fresh networks make one number. A real training set gets `full_data_epochs` instead of `epochs`.
    `source` cites the paper, `notes` says what to know before comparing with published numbers.
    """

    name: str
    source: str
    summary: str
    notes: str
    epochs: Count
    batch: Annotated[int, Field(ge=2)]
    lr: Positive
    learned_lr: bool
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    decay_at: Fraction
    decay_factor: Positive
    augmentation: Literal["none", "dsa", "dc"]
    networks: Count
    full_data_epochs: Count

    @property
    def decay_epoch(self) -> int:
        """The first epoch (from 0) at the lower learning rate."""
        return math.ceil(self.decay_at * self.epochs)

    def on_full_data(self) -> "Protocol":
        """The same protocol with the number of epochs for a whole real training set."""
        return replace(self, epochs=self.full_data_epochs)


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
