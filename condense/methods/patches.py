"""Parts of real images, as a teacher judges them: what RDED makes its images of, and where others start.

Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm",
CVPR 2024, arXiv 2312.03526. "critical" patches are those of NRR-DD: Tran et al., "Enhancing Dataset Distillation via
Non-Critical Region Refinement", CVPR 2025, arXiv 2503.18267.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from condense.augment import cut, draw_boxes
from condense.methods.base import BATCH, MethodConfig, Problem
from condense.synthetic import sample_per_class
from condense.teachers import Teacher

SMALLEST = 0.08
"""Least area of a patch, of its image's."""
Choice = Literal["easy", "medium", "hard", "critical"]
"""Which patches are taken: see `patched_images`."""


class PatchConfig(MethodConfig):
    """Keys of methods that start from patches."""

    candidates: int = Field(300, ge=1, description="real images of each class that patches are looked for in")
    crops: int = Field(5, ge=1, description="patches of each image that are looked at; the best is a candidate")
    patch_factor: Literal[1, 2, 3, 4] = Field(1, description="each image is patch_factor x patch_factor patches")

    def real_per_class(self, ipc: int, classes: int) -> int:  # noqa: ARG002
        """One for each patch."""
        return ipc * self.patch_factor**2


def patched_images(problem: Problem, teacher: Teacher, config: PatchConfig, choice: Choice = "easy") -> Tensor:
    """Images [classes ipc, ch, s, s] in the preprocessed space, class by class, each made of f x f patches.

    Of `candidates` images of a class, drawn at random, each gives `crops` squares, their area uniform on [0.08, 1) of
    its own. A square is brought to the side s / f, and judged in the middle of an image that is zero (the mean colour)
    elsewhere, by

        loss = -log softmax(f(theta, x))_y

    Each image keeps the patch of the lowest loss, and these are put in order, the lowest first: the easiest f^2 ipc of
    them are taken, or those around the median, or the hardest. Number k ipc + i becomes the k-th tile, row by row, of
    image i, so that the easiest patches are the first tiles. "critical": each image keeps the patch in which the
    teacher sees the class most, by `activation` of its map of the whole image, and the hardest of these are taken.

    Raises:
        ConfigError: "critical" patches, and a teacher without activation maps.
    """
    f, wanted = config.patch_factor, problem.ipc * config.patch_factor**2
    size, images = problem.data.size, []
    tile = -(-size // f)
    for c, members in enumerate(problem.members):
        draws = problem.rng("patches", c)
        count = min(len(members), max(config.candidates, wanted))
        assert count >= wanted, "real_per_class says how many there must be"
        rows = sample_per_class([members], count, draws)
        boxes = draw_boxes(count * config.crops, size, draws, smallest=SMALLEST, aspect=1.0)
        best = [
            _kept(problem, teacher, c, part, of_part.unflatten(0, (len(part), -1)), tile, critical=choice == "critical")
            for part, of_part in zip(rows.split(BATCH), boxes.split(BATCH * config.crops), strict=True)
        ]
        losses, patches = (torch.cat(parts) for parts in zip(*best, strict=True))
        order = losses.argsort(stable=True)
        last = count - wanted
        first = {"easy": 0, "medium": last // 2, "hard": last, "critical": last}[choice]
        images.append(stitch(patches[order[first : first + wanted]].unflatten(0, (f**2, -1)), size))
    return torch.cat(images)


def _kept(
    problem: Problem, teacher: Teacher, label: int, rows: Tensor, boxes: Tensor, tile: int, *, critical: bool
) -> tuple[Tensor, Tensor]:
    """Of the boxes [n, crops, 4] of each image the loss of the one that is kept, and its patch [n, ch, tile, tile]."""
    inputs, size = problem.inputs[rows.to(problem.device)], problem.data.size
    before = (size - tile) // 2
    border = (before, size - tile - before) * 2
    losses, patches = [], []
    for k in range(boxes.shape[1]):
        patch = cut(inputs, boxes[:, k], size=tile)
        logits = teacher.logits(F.pad(patch, border))
        losses.append(-logits.log_softmax(1)[:, label])
        patches.append(patch)
    tried = torch.stack(losses)
    if critical:
        labels = torch.full_like(rows, label, device=inputs.device)
        which = activation(teacher.activation_map(inputs, labels), boxes).argmax(1)
    else:
        which = tried.argmin(0)
    kept = which, torch.arange(len(rows), device=which.device)
    return tried[kept], torch.stack(patches)[kept]


def activation(maps: Tensor, boxes: Tensor) -> Tensor:
    """The mean of each map [n, s, s] over its boxes [n, crops, 4]: [n, crops]."""
    places = torch.arange(maps.shape[-1])
    corners, sides = boxes.unsqueeze(-1).split(2, 2)
    inside = ((corners <= places) & (places < corners + sides)).to(maps)
    means = inside / inside.sum(-1, keepdim=True)
    return torch.einsum("nki,nij,nkj->nk", means[:, :, 0], maps, means[:, :, 1])


def stitch(tiles: Tensor, size: int) -> Tensor:
    """Images [n, ch, size, size] of tiles [f^2, n, ch, t, t], row by row; a cell is a tile, or its nearest pixels.

    Sides that f does not divide give the first cells one pixel more, as everywhere.
    """
    f = round(len(tiles) ** 0.5)
    template, each = tiles.new_empty(*tiles.shape[1:3], size, size), iter(tiles)
    bands = []
    for band in template.tensor_split(f, 2):
        cells = [F.interpolate(next(each), cell.shape[2:], mode="nearest") for cell in band.tensor_split(f, 3)]
        bands.append(torch.cat(cells, 3))
    return torch.cat(bands, 2)
