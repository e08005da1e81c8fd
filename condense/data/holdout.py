"""Splits that belong to a data set."""

import torch

from condense.data.types import Split
from condense.rng import generator

SPLIT_SEED = 0
"""A split is a fact about a data set: every run shares it, whatever its own seed."""


def hold_out(whole: Split, fraction: float, stream: str) -> tuple[Split, Split]:
    """(kept, held), each in the order of `whole`: of the n_c images of each class c, round(fraction * n_c) are held,
    but at most n_c - 1. `stream` names the random choice."""
    held = torch.zeros(len(whole), dtype=torch.bool)
    for label in sorted(set(whole.labels.tolist())):
        members = (whole.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator(SPLIT_SEED, stream, label))
        count = min(round(fraction * len(members)), len(members) - 1)
        held[members[order[:count]]] = True
    return Split(whole.images[~held], whole.labels[~held]), Split(whole.images[held], whole.labels[held])
