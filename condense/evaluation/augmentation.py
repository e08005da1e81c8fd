"""The augmentation of a protocol, as functions of a training batch."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from condense.augment import DSA, composed, crop_flip, cutmix, in_turn, mixup, standard, without_cutout
from condense.augment.dc import crop_scale_rotate
from condense.evaluation.protocols import Protocol

Augment = Callable[[Tensor, torch.Generator], Tensor]
Mix = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


def augmentation(protocol: Protocol, strategy: str) -> tuple[str, Augment]:
    """The name of what is done to each training batch [b, ch, s, s], and that; `strategy` is the DSA of the run.

    Only where the strategy has flip are images ever mirrored. Raises ConfigError for an operator that does not exist.
    """
    dsa = DSA(strategy)
    mirrored = "flip" in dsa.operations
    match protocol.augmentation:
        case "none":
            return "none", lambda images, _: images
        case "dsa":
            return dsa.strategy, dsa.augment
        case "composed":
            stages = composed(without_cutout(strategy))
            names = ["/".join(stage.operations) for stage in stages]
            return f"composed:{'_'.join(names)}", partial(in_turn, stages)
        case "dc":
            return "dc:crop_scale_rotate", crop_scale_rotate
        case "crop_flip":
            return "crop_flip" if mirrored else "crop_flip without flip", partial(crop_flip, mirrored=mirrored)
        case "standard":
            return "standard" if mirrored else "standard without flip", partial(standard, mirrored=mirrored)


def mixing(protocol: Protocol, classes: int) -> Mix | None:
    """CutMix or MixUp as the protocol has it, from (images, labels, draws) to (images, rows of labels); None without.

    Labels are classes, or rows [b, classes] of probabilities or logits.
    """
    if protocol.cutmix:
        return lambda images, labels, draws: cutmix(images, labels, classes, draws, protocol.cutmix)
    if (alpha := protocol.mixup) is not None:
        return lambda images, labels, draws: mixup(images, labels, classes, draws, alpha)
    return None
