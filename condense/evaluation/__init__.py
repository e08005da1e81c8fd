"""Retrain fresh networks on a set and measure them on data that nothing else has seen."""

from condense.evaluation.datasets import AnyDataset, as_test_set, as_training_set
from condense.evaluation.fresh import NetworkLike, fresh_networks
from condense.evaluation.protocols import Augmentation, Protocol, load_protocol, load_protocols
from condense.evaluation.sets import TEST_BATCH, TestSet, TrainingSet
from condense.evaluation.statistics import paired_difference, percent, summary
from condense.evaluation.train import (
    NO_VALIDATION,
    Attempt,
    Evaluation,
    Examiner,
    Outcome,
    Pilot,
    Trial,
    evaluate,
    train_network,
)

__all__ = [
    "NO_VALIDATION",
    "TEST_BATCH",
    "AnyDataset",
    "Attempt",
    "Augmentation",
    "Evaluation",
    "Examiner",
    "NetworkLike",
    "Outcome",
    "Pilot",
    "Protocol",
    "TestSet",
    "TrainingSet",
    "Trial",
    "as_test_set",
    "as_training_set",
    "evaluate",
    "fresh_networks",
    "load_protocol",
    "load_protocols",
    "paired_difference",
    "percent",
    "summary",
    "train_network",
]
