"""Differentiable augmentation."""

from condense.augment.dsa import DSA, FULL_STRATEGY, OPERATIONS, Record

__all__ = ["DSA", "FULL_STRATEGY", "OPERATIONS", "Record"]
