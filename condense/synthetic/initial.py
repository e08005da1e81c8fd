"""Where a synthetic set starts."""

from typing import Literal, get_args

import torch
from torch import Tensor

from condense.data.preprocess import Preprocessing
from condense.data.types import Split

Initial = Literal["real", "noise"]
INITIAL: tuple[str, ...] = get_args(Initial)


def hard_labels(classes: int, ipc: int, device: torch.device) -> Tensor:
    """int64 [classes * ipc]: class c holds rows c * ipc .. (c + 1) * ipc - 1."""
    return torch.arange(classes, device=device).repeat_interleave(ipc)


def sample_per_class(labels: Tensor, classes: int, count: int, draws: torch.Generator) -> Tensor:
    """Row numbers [classes * count] of `count` different images of each class, class by class."""
    rows = []
    for c in range(classes):
        members = torch.nonzero(labels == c).flatten()
        assert len(members) >= count, f"class {c} has {len(members)} images, {count} wanted"
        rows.append(members[torch.randperm(len(members), generator=draws)[:count].to(members.device)])
    return torch.cat(rows)


def initial_images(
    kind: Initial, split: Split, preprocessing: Preprocessing, *, classes: int, ipc: int, draws: torch.Generator
) -> Tensor:
    """Images [classes * ipc, ch, h, w] in the preprocessed space.

    "real": different training images of each class, drawn without replacement. "noise": N(0, 1) for each pixel.
    """
    if kind == "real":
        return preprocessing(split.images[sample_per_class(split.labels, classes, ipc, draws)])
    shape = (classes * ipc, *split.images.shape[1:])
    return torch.randn(shape, generator=draws).to(split.images.device)
