"""Retrain fresh networks on a set and measure them on data that nothing else has seen."""

from condense.evaluation.fresh import NetworkLike
from condense.evaluation.protocols import Augmentation, Protocol, load_protocol, load_protocols
from condense.evaluation.sets import TestSet, TrainingSet
from condense.evaluation.statistics import paired_difference, summary
from condense.evaluation.train import NO_VALIDATION, Evaluation, Pilot, evaluate, train_network

__all__ = [
    "NO_VALIDATION",
    "Augmentation",
    "Evaluation",
    "NetworkLike",
    "Pilot",
    "Protocol",
    "TestSet",
    "TrainingSet",
    "evaluate",
    "load_protocol",
    "load_protocols",
    "paired_difference",
    "summary",
    "train_network",
]
