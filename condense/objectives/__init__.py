"""Matching losses: tensors in, tensors out."""

from condense.objectives.trajectory import normalised_distance

__all__ = ["normalised_distance"]
