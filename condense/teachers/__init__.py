"""Teachers of the decoupled methods: networks with running statistics, trained on the real data."""

from condense.teachers.activation import class_map
from condense.teachers.pool import Teacher, held_out_accuracy
from condense.teachers.scores import Score, hardness, last_linear
from condense.teachers.train import SqueezePlan, squeeze

__all__ = ["Score", "SqueezePlan", "Teacher", "class_map", "hardness", "held_out_accuracy", "last_linear", "squeeze"]
