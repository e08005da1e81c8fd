"""Differentiable augmentation."""

from condense.augment.boxes import cut, draw_boxes, draw_shifts
from condense.augment.compose import composed, in_turn, without_cutout
from condense.augment.cutmix import cutmix
from condense.augment.dsa import DSA, FULL_STRATEGY, OPERATIONS, Record, apply_groups
from condense.augment.standard import crop_flip, standard

__all__ = [
    "DSA",
    "FULL_STRATEGY",
    "OPERATIONS",
    "Record",
    "apply_groups",
    "composed",
    "crop_flip",
    "cut",
    "cutmix",
    "draw_boxes",
    "draw_shifts",
    "in_turn",
    "standard",
    "without_cutout",
]
