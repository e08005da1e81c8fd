"""How much of a set's accuracy is its images: under other augmentations, with hard labels, on other networks.

Random real images, as many as the set stores, and the full data are evaluated beside it, by the protocol that is the
same but for the augmentation. From these come the scores of DD-Ranking (`condense.evaluation.scores`) and the three
numbers of DC-BENCH: Cui et al., "DC-BENCH: Dataset Condensation Benchmark", NeurIPS 2022, arXiv 2207.09639.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from condense import provide
from condense.artifact import Artifact
from condense.comparison import FULL_DATA, Comparison, artifact_key, evaluate_full_data, kept, real_images, training_set
from condense.config import Resolved, RunConfig
from condense.errors import ConfigError
from condense.evaluation import Augmentation, Evaluation, Protocol, TrainingSet, paired_difference
from condense.evaluation.scores import ars, lrs
from condense.methods import METHODS
from condense.runs import StopFlag

logger = logging.getLogger("condense")

AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "dsa", "standard", "crop_flip")
SOFT_RANDOM = "random_soft"
"""The baseline of random real images with a teacher's soft labels."""

Interval = tuple[float, float | None]
"""A mean over pairs of networks, and the half width of its 95 % interval."""


@dataclass(frozen=True)
class Row:
    """One set under one augmentation: `training` its method or "full data", `labels` hard or soft."""

    training: str
    labels: str
    augmentation: Augmentation
    evaluation: Evaluation


@dataclass(frozen=True)
class Robustness:
    """A set beside random images and the full data; accuracies are fractions.

    `own` is the augmentation of the protocol itself. `ours`, the set, and `random` have a row for each augmentation,
    with labels of the set's own kind, where random images can have such (their rows say which); `hard` is the set with
    hard labels and `full` the full data, both under `own`; `transfer` the set on other networks.
    """

    own: Augmentation
    ours: tuple[Row, ...]
    random: tuple[Row, ...]
    hard: Row
    full: Row
    transfer: tuple[Row, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All of them, each once."""
        hard = () if self.hard in self.ours else (self.hard,)
        return (*self.ours, *hard, *self.random, self.full, *self.transfer)

    @property
    def evaluations(self) -> list[Evaluation]:
        """The set under the protocol itself: on its own network, then on others."""
        return [self._at(self.ours, self.own), *(row.evaluation for row in self.transfer)]

    @property
    def hlr(self) -> Interval:
        """Hard-label recovery: the full data minus the set, both with hard labels."""
        return paired_difference(self.full.evaluation.values, self.hard.evaluation.values)

    @property
    def ior(self) -> Interval:
        """Improvement over random images."""
        ours, random = (self._at(rows, self.own) for rows in (self.ours, self.random))
        return paired_difference(ours.values, random.values)

    @property
    def lrs(self) -> float:
        """Label-robust score with w = 1/2."""
        return lrs(
            real_hard=self.full.evaluation.mean,
            syn_hard=self.hard.evaluation.mean,
            syn_any=self._at(self.ours, self.own).mean,
            rdm_any=self._at(self.random, self.own).mean,
        )

    @property
    def ars(self) -> float:
        """Augmentation-robust score with gamma = 1/2: of the protocol's augmentation, or DSA if it has none."""
        augmented: Augmentation = "dsa" if self.own == "none" else self.own
        return ars(
            syn_aug=self._at(self.ours, augmented).mean,
            rdm_aug=self._at(self.random, augmented).mean,
            syn_naug=self._at(self.ours, "none").mean,
            rdm_naug=self._at(self.random, "none").mean,
        )

    @property
    def best_augmentation(self) -> float:
        """DC-BENCH: the highest of the set's mean test accuracies over augmentations. A maximum over tests flatters."""
        return max(row.evaluation.mean for row in self.ours)

    @property
    def mean_augmentation(self) -> float:
        """DC-BENCH: the mean of the set's accuracies over augmentations."""
        return fmean(row.evaluation.mean for row in self.ours)

    @property
    def mean_transfer(self) -> float | None:
        """DC-BENCH: the mean of the set's accuracies over other networks than its own; None without any."""
        return fmean(row.evaluation.mean for row in self.transfer) if self.transfer else None

    def _at(self, rows: Sequence[Row], augmentation: Augmentation) -> Evaluation:
        (found,) = (row.evaluation for row in rows if row.augmentation == augmentation)
        return found


def evaluate_robustness(
    artifact: Artifact, comparison: Comparison, network: str, others: Sequence[str], stop: StopFlag
) -> Robustness:
    """All evaluations, each from the cache if it was made before; `network` is the one the set was made with.

    Raises ConfigError, before any training, if a class has fewer training images than the set stores, and if the
    protocol would play back a label store, whose views no other augmentation can replace.
    """
    provide.refuse(provide.too_few(artifact.manifest.method.ipc, comparison.config, comparison.data))
    labels, protocol = artifact.manifest.labels.kind, comparison.protocol
    key, training = artifact_key(artifact.manifest), training_set(artifact)
    if training.played(protocol) is not None:
        raise ConfigError(
            f"protocol {protocol.name!r} trains on the views of the set's label store, under which other augmentations "
            "cannot be tried. Choose a protocol that does not distil, for example --protocol fair"
        )
    augmentations = dict.fromkeys((protocol.augmentation, *AUGMENTATIONS))

    def row(
        key: dict[str, Any], make: Callable[[], TrainingSet], kind: str, augmentation: Augmentation, on: str = network
    ) -> Row:
        evaluation = kept(key, make, comparison, under(protocol, augmentation), on, stop)
        return Row(key["method"], kind, augmentation, evaluation)

    ours = tuple(row(key, lambda: training, labels, augmentation) for augmentation in augmentations)
    (hard,) = (row for row in ours if row.augmentation == protocol.augmentation)
    if labels == "soft":
        hardened = replace(training, labels=training.labels.argmax(1))
        hard = row(key | {"labels": "hard"}, lambda: hardened, "hard", protocol.augmentation)
    random_key, random, random_labels = _random_images(artifact, comparison, network, stop)
    return Robustness(
        own=protocol.augmentation,
        ours=ours,
        random=tuple(row(random_key, random, random_labels, augmentation) for augmentation in augmentations),
        hard=hard,
        full=Row(FULL_DATA, "hard", protocol.augmentation, evaluate_full_data(comparison, network, stop)),
        transfer=tuple(row(key, lambda: training, labels, protocol.augmentation, on) for on in others),
    )


def under(protocol: Protocol, augmentation: Augmentation) -> Protocol:
    """The protocol with another augmentation, which takes the place of its mixing too."""
    if augmentation == protocol.augmentation:
        return protocol
    return replace(protocol, augmentation=augmentation, cutmix=0.0, mixup=None)


def _random_images(
    artifact: Artifact, comparison: Comparison, network: str, stop: StopFlag
) -> tuple[dict[str, Any], Callable[[], TrainingSet], str]:
    """Random real images as the cache knows them, what makes them, and the kind of their labels: the set's if possible.

    Soft labels come from a teacher that is kept under the kind of its preprocessing, so that must be the data's own.
    """
    method = "random"
    run = RunConfig(
        **dict(comparison.config),
        method=method,
        ipc=artifact.manifest.method.ipc,
        network=network,
        zca=comparison.preprocessing.kind == "zca",
    )
    problem = provide.build_problem(run, comparison.data)
    if artifact.manifest.labels.kind == "soft":
        if SOFT_RANDOM in METHODS and problem.preprocessing.sha256 == comparison.preprocessing.sha256:
            method = SOFT_RANDOM
        else:
            logger.warning("the set has soft labels, the random images beside it have hard ones")
    problem = replace(problem, preprocessing=comparison.preprocessing)
    key, make = real_images(method, Resolved(run, METHODS[method].Config(), {}), problem, stop)
    return key, make, "soft" if method == SOFT_RANDOM else "hard"
