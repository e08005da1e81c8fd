"""Differentiable siamese augmentation (DSA).

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", 2021, arXiv 2102.08259, section 3.2;
operators and ranges as the trajectory-matching family uses them. One operator is drawn for the whole batch, its
parameters for each image ("per sample") or once ("shared", which is what siamese means: real and synthetic images get
the same transform). A draw is a `Record` of three uniform numbers per image, and applying a record is a pure function:
an inner training run is replayed from its records, never from stored images or a re-seeded global generator.

Everything acts in the preprocessed space, so "zero" is the mean colour of the data set.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from condense.errors import ConfigError, unknown

BRIGHTNESS = 1.0  # width of the shift's range, in standard deviations of the data
SATURATION = 2.0  # largest factor on the distance to the grey image
CONTRAST = 0.5  # smallest factor on the distance to the image's mean; the largest is 1.5
CROP = 0.125  # largest shift, as a part of the side
CUTOUT = 0.5  # side of the square, as a part of the image's side
SCALE = 1.2  # largest factor of the sampling grid; the smallest is its inverse
ROTATE = 15.0  # largest angle, in degrees

FULL_STRATEGY = "color_crop_cutout_flip_scale_rotate"


@dataclass(frozen=True)
class Record:
    """One draw: the operator's name ("none" for no change) and u [n or 1, 3], uniform on [0, 1)."""

    operation: str
    u: Tensor


def _column(u: Tensor, k: int, like: Tensor) -> Tensor:
    """u_k as [n or 1, 1, 1, 1] in the images' dtype."""
    return u[:, k].to(like.dtype).view(-1, 1, 1, 1)


def color(x: Tensor, u: Tensor) -> Tensor:
    """x + (u0 - 1/2); then m + 2 u1 (x - m), m the mean over channels; then m + (u2 + 1/2)(x - m), m that of all."""
    x = x + (_column(u, 0, x) - 0.5) * BRIGHTNESS
    m = x.mean(1, keepdim=True)
    x = m + SATURATION * _column(u, 1, x) * (x - m)
    m = x.mean((1, 2, 3), keepdim=True)
    return m + (_column(u, 2, x) + CONTRAST) * (x - m)


def _integers(u: Tensor, k: int, low: int, high: int) -> Tensor:
    """Integers low..high from u_k, [n or 1, 1]."""
    return (low + torch.floor(u[:, k] * (high - low + 1)).clamp(max=high - low)).long().view(-1, 1)


def crop(x: Tensor, u: Tensor) -> Tensor:
    """out[i, j] = x[i + a, j + b], 0 outside; a, b uniform integers in -s..s, s = round(side / 8)."""
    n, channels, height, width = x.shape
    shifts = []
    for k, side in enumerate((height, width)):
        s = int(side * CROP + 0.5)
        shifts.append((torch.arange(side, device=x.device) + _integers(u, k, -s, s)).expand(n, side))
    rows, columns = shifts
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    x = x.gather(2, rows.clamp(0, height - 1)[:, None, :, None].expand(n, channels, height, width))
    x = x.gather(3, columns.clamp(0, width - 1)[:, None, None, :].expand(n, channels, height, width))
    return x * inside


def cutout(x: Tensor, u: Tensor) -> Tensor:
    """A square of half the side set to 0, its centre anywhere in the image; the border cuts it off."""
    covered = []
    for k, side in enumerate(x.shape[2:]):
        length = int(side * CUTOUT + 0.5)
        first = _integers(u, k, 0, side - length % 2) - length // 2
        place = torch.arange(side, device=x.device)
        covered.append((place >= first) & (place < first + length))
    rows, columns = covered
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def flip(x: Tensor, u: Tensor) -> Tensor:
    """Left-right mirror image where u0 < 1/2."""
    return torch.where(_column(u, 0, x) < 0.5, x.flip(3), x)


def warp(x: Tensor, rows: list[list[Tensor]]) -> Tensor:
    """Bilinear sampling on the affine grid of theta, its two rows of three numbers [n or 1] each; zero outside.

    align_corners is True, as in the published code (the default of the torch version it was written for).
    """
    theta = torch.stack([torch.stack(row, -1) for row in rows], 1).to(x.dtype)
    grid = F.affine_grid(theta.expand(x.shape[0], 2, 3), list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def scale(x: Tensor, u: Tensor) -> Tensor:
    """The sampling grid is stretched by s_x, s_y, independent and uniform on [1/1.2, 1.2)."""
    sx, sy = (1 / SCALE + u[:, k] * (SCALE - 1 / SCALE) for k in (0, 1))
    zero = torch.zeros_like(sx)
    return warp(x, [[sx, zero, zero], [zero, sy, zero]])


def rotate(x: Tensor, u: Tensor) -> Tensor:
    """The sampling grid is turned by an angle uniform on [-15, 15) degrees, about the image's centre."""
    angle = (2 * u[:, 0] - 1) * ROTATE * (math.pi / 180)
    zero = torch.zeros_like(angle)
    return warp(x, [[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero]])


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}


class DSA:
    """The augmentation a strategy string names: operators joined by "_", or "none".

    Raises ConfigError for an operator that does not exist.
    """

    def __init__(self, strategy: str = FULL_STRATEGY) -> None:
        self.strategy = strategy
        self.operations = () if strategy in ("", "none") else tuple(strategy.split("_"))
        for name in self.operations:
            if name not in OPERATIONS:
                raise ConfigError(f"dsa = {strategy!r}: " + unknown("operator", name, OPERATIONS))

    def sample(self, generator: torch.Generator, n: int, *, shared: bool = False) -> Record:
        """Draw one operator for the batch, with parameters for each of n images, or one set that serves any n."""
        if not self.operations:
            return Record("none", torch.zeros(1, 3))
        choice = int(torch.randint(len(self.operations), (), generator=generator))
        return Record(self.operations[choice], torch.rand(1 if shared else n, 3, generator=generator))

    def apply(self, x: Tensor, record: Record) -> Tensor:
        """The recorded transform of x [n, ch, h, w]; differentiable in x."""
        if record.operation == "none":
            return x
        return OPERATIONS[record.operation](x, record.u.to(x.device, non_blocking=True))

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw and apply, with parameters for each image."""
        return self.apply(x, self.sample(generator, x.shape[0]))

    def sample_groups(self, generator: torch.Generator, groups: int) -> tuple[Record, ...]:
        """A shared record for each group: what siamese means where a group is a class."""
        return tuple(self.sample(generator, 1, shared=True) for _ in range(groups))


def apply_groups(x: Tensor, records: Sequence[Record]) -> Tensor:
    """The transform records[g] of all images x[g], x [groups, m, ch, h, w]; one call for each operator that occurs."""
    parts, places = [], []
    for operation in dict.fromkeys(record.operation for record in records):
        members = [g for g, record in enumerate(records) if record.operation == operation]
        part = x[members]
        if operation != "none":
            u = torch.cat([records[g].u for g in members]).repeat_interleave(x.shape[1], 0)
            part = OPERATIONS[operation](part.flatten(0, 1), u.to(x.device, non_blocking=True)).view_as(part)
        parts.append(part)
        places += members
    return torch.cat(parts)[torch.tensor(places).argsort()]
