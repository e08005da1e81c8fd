"""Differentiable augmentation."""

from condense.augment.boxes import cut, draw_boxes, draw_shifts
from condense.augment.compose import composed, in_turn, without_cutout
from condense.augment.cutmix import cutmix, paste, patch
from condense.augment.dsa import DSA, FULL_STRATEGY, OPERATIONS, Record, apply_groups
from condense.augment.mixup import blend, draw_share, mixup
from condense.augment.standard import crop_flip, standard

__all__ = [
    "DSA",
    "FULL_STRATEGY",
    "OPERATIONS",
    "Record",
    "apply_groups",
    "blend",
    "composed",
    "crop_flip",
    "cut",
    "cutmix",
    "draw_boxes",
    "draw_share",
    "draw_shifts",
    "in_turn",
    "mixup",
    "paste",
    "patch",
    "standard",
    "without_cutout",
]
