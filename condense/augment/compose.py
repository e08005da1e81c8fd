"""DSA's operators composed, as IDC does it.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv 2205.14959, and its
code: flip and color always, then one of crop, scale and rotate, then cutout always, each only if the strategy names it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from condense.augment.dsa import DSA

STAGES = (("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",))


def composed(strategy: str) -> tuple[DSA, ...]:
    """The augmentations to apply one after another; each draws one of its operators.

    Raises ConfigError for an operator that does not exist.
    """
    named = DSA(strategy).operations
    stages = ([name for name in stage if name in named] for stage in STAGES)
    return tuple(DSA("_".join(stage)) for stage in stages if stage)


def in_turn(stages: Sequence[DSA], x: Tensor, draws: torch.Generator) -> Tensor:
    """Images x [n, ch, h, w] after each stage, every one of which draws from `draws`."""
    for stage in stages:
        x = stage.augment(x, draws)
    return x


def without_cutout(strategy: str) -> str:
    """The strategy where CutMix takes the place of cutout."""
    return "_".join(name for name in DSA(strategy).operations if name != "cutout") or "none"
