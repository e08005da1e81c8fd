"""Differentiable augmentation."""

from condense.augment.compose import composed, without_cutout
from condense.augment.cutmix import cutmix
from condense.augment.dsa import DSA, FULL_STRATEGY, OPERATIONS, Record, apply_groups

__all__ = ["DSA", "FULL_STRATEGY", "OPERATIONS", "Record", "apply_groups", "composed", "cutmix", "without_cutout"]
