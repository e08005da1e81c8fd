"""Retrain fresh networks on a set and measure them on data that nothing else has seen."""

from condense.evaluation.protocols import Protocol, load_protocol, load_protocols
from condense.evaluation.sets import TestSet, TrainingSet
from condense.evaluation.statistics import paired_difference, percent, summary
from condense.evaluation.train import Evaluation, evaluate, train_network

__all__ = [
    "Evaluation",
    "Protocol",
    "TestSet",
    "TrainingSet",
    "evaluate",
    "load_protocol",
    "load_protocols",
    "paired_difference",
    "percent",
    "summary",
    "train_network",
]
