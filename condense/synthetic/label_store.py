"""Labels for views of a set, kept with the views: teachers say them once, students play them back.

As FKD and SRe2L (Yin, Xing and Shen, NeurIPS 2023, arXiv 2306.13092) keep them, but for what a view is: explicit whole
numbers, and not the state of a sampler that another version of torch would draw otherwise.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import pairwise, product
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from condense.augment import blend, cut, draw_boxes, draw_share, draw_shifts, paste, patch
from condense.augment.dsa import CROP
from condense.errors import NumericsError

Crop = Literal["resized", "shifted", "none"]
Mixing = Literal["none", "cutmix", "mixup"]
StoreKind = Literal["logits", "distances"]

MIXUP = 0.8
"""Both parameters of the Beta distribution of MixUp's lambda."""


def parts(count: int, size: int) -> list[slice]:
    """`count` >= 2 things in consecutive parts of `size` >= 2; one that is left over belongs to the last part.

    So no part is a single image, over which batch norm has no variance.
    """
    assert count >= 2 and size >= 2, (count, size)
    return [slice(*ends) for ends in pairwise([*range(0, count - 1, size), count])]


class ShownBatch(NamedTuple):
    """Views x [b, ch, s, s] of the images `rows` [b], with the part 1 - `share` of each from `partner_rows` [b]."""

    x: Tensor
    rows: Tensor
    partner_rows: Tensor
    share: float


@dataclass(frozen=True)
class Views:
    """E epochs of views of n >= 2 images of side s, each image once in an epoch; on the CPU.

    View i of epoch e shows the box `boxes[e, i]` (top, left, height, width) of image `order[e, i]`, brought to side s
    by `condense.augment.cut` and mirrored where `mirrored[e, i]`. The views of an epoch come in B batches,
    `parts(n, batch)`. In batch k the box `patches[e, k]` (top, left, bottom, right) is replaced by that of view
    `partners[e, i]` of the same epoch and batch; where it is empty, views are averaged with those, by
    `shares[e, k]` for their own. `shares` are what is left of each view: 1 - area / s^2, or lambda, or 1.

    Shapes: `order`, `partners` int64 [E, n]; `boxes` int64 [E, n, 4]; `mirrored` bool [E, n]; `patches` int64
    [E, B, 4]; `shares` float32 [E, B].
    """

    order: Tensor
    boxes: Tensor
    mirrored: Tensor
    partners: Tensor
    patches: Tensor
    shares: Tensor
    batch: int

    @property
    def epochs(self) -> int:
        return self.order.shape[0]

    @property
    def batches(self) -> list[slice]:
        """The views of each batch of an epoch."""
        return parts(self.order.shape[1], self.batch)

    def show(self, images: Tensor, epoch: int, k: int) -> ShownBatch:
        """Batch k = 0..B-1 of an epoch, of the images [n, ch, s, s] on any device."""
        views, share = self.batches[k], float(self.shares[epoch, k])
        rows = self.order[epoch, views].to(images.device)
        x = cut(images[rows], self.boxes[epoch, views], self.mirrored[epoch, views])
        partners = (self.partners[epoch, views] - views.start).to(images.device)
        top, left, bottom, right = box = tuple(self.patches[epoch, k].tolist())
        if top < bottom and left < right:
            x = paste(x, partners, box)
        elif share < 1:
            x = blend(x, partners, share)
        return ShownBatch(x, rows, rows[partners], share)


def draw_views(
    n: int,
    size: int,
    *,
    epochs: int,
    batch: int,
    crop: Crop,
    smallest: float,
    mirrored: bool,
    mix: Mixing,
    draws: Callable[[int], torch.Generator],
) -> Views:
    """Views of n images of side `size`; epoch e is drawn from `draws(e)` alone.

    "resized" boxes have `smallest` to all of the image's area (`draw_boxes`), "shifted" ones are the whole image moved
    by up to an eighth of its side. `mirrored` mirrors every view with probability 1/2. CutMix draws lambda uniform on
    [0, 1), MixUp from Beta(0.8, 0.8): one for each batch, and one permutation.
    """
    made = [_epoch(n, size, batch, crop, smallest, mirrored, mix, draws(epoch)) for epoch in range(epochs)]
    order, boxes, flips, partners, patches, shares = (torch.stack(tensors) for tensors in zip(*made, strict=True))
    return Views(order, boxes, flips, partners, patches, shares, batch)


def _epoch(
    n: int, size: int, batch: int, crop: Crop, smallest: float, mirrored: bool, mix: Mixing, draws: torch.Generator
) -> tuple[Tensor, ...]:
    order = torch.randperm(n, generator=draws)
    match crop:
        case "resized":
            boxes = draw_boxes(n, size, draws, smallest=smallest)
        case "shifted":
            boxes = draw_shifts(n, size, draws, most=int(size * CROP + 0.5))
        case "none":
            boxes = torch.tensor([[0, 0, size, size]]).expand(n, 4)
    flips = torch.rand(n, generator=draws) < 0.5 if mirrored else torch.zeros(n, dtype=torch.bool)
    partners, patches, shares = torch.arange(n), [], []
    for views in parts(n, batch):
        box, share = (0, 0, 0, 0), 1.0
        if mix != "none":
            partners[views] = partners[views][torch.randperm(views.stop - views.start, generator=draws)]
        if mix == "cutmix":
            lam, *centre = torch.rand(3, generator=draws).tolist()
            top, left, bottom, right = box = patch((size, size), lam, centre)
            share = 1 - (bottom - top) * (right - left) / size**2
        elif mix == "mixup":
            share = draw_share(MIXUP, draws)
        patches.append(box)
        shares.append(share)
    return order, boxes, flips, partners, torch.tensor(patches), torch.tensor(shares)


def relabel(
    images: Tensor,
    views: Views,
    label: Callable[[ShownBatch], Tensor],
    *,
    what: str = "labels",
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """float16 [E, n, d], in the order of the views: what `label` says [b, d] of each batch of views of the images.

    `poll` is called after each of the E B batches, and may raise to stop; `what` names the values in messages.

    Raises NumericsError at the first batch with what is not finite, or too large for float16.
    """
    values = []
    with torch.no_grad():
        for epoch, k in product(range(views.epochs), range(len(views.batches))):
            said = label(views.show(images, epoch, k)).half().cpu()
            if not bool(said.isfinite().all()):
                raise NumericsError(
                    f"{what} of epoch {epoch + 1}, batch {k + 1}, are not finite, or above 65504, the largest float16. "
                    "Nothing of the set is kept. Lower the learning rate of its teachers, or of its images"
                )
            values.append(said)
            poll()
    return torch.cat(values).view(views.epochs, -1, values[0].shape[1])


@dataclass(frozen=True)
class LabelStore:
    """What teachers said of each view of a set, and how a student learns from it (`condense.objectives`).

    `values` are float16 in the order of the views: "logits" [E, n, classes] for `logit_loss`, or "distances" [E, n, 2]
    for `distance_loss`. `weight` is the teachers' in that loss. `group` images of a batch went through the teachers
    together, `parts(b, group)`, where these normalised by the statistics of the images at hand; a student takes them in
    the same groups. None: the whole batch.
    """

    views: Views
    kind: StoreKind
    values: Tensor
    weight: float = 1.0
    group: int | None = None

    def repeated(self, epochs: int) -> "LabelStore":
        """A store of so many epochs, all like the first of this one, in the memory of one."""
        views = {field.name: getattr(self.views, field.name) for field in fields(Views) if field.name != "batch"}
        many = {name: tensor[:1].expand(epochs, *tensor.shape[1:]) for name, tensor in views.items()}
        values = self.values[:1].expand(epochs, *self.values.shape[1:])
        return replace(self, views=Views(**many, batch=self.views.batch), values=values)

    def groups(self, count: int) -> list[slice]:
        """The groups of a batch of `count` images."""
        return parts(count, self.group or count)

    def tensors(self) -> dict[str, Tensor]:
        """All of them, by name."""
        views = {field.name: getattr(self.views, field.name) for field in fields(Views) if field.name != "batch"}
        return views | {"values": self.values}

    def fault(self, n: int, size: int, classes: int) -> str | None:
        """What is wrong with a store for n images of side `size`; None if nothing is."""
        views, most = self.views, 1.0 if self.kind == "logits" else sys.float_info.max
        if n < 2:
            return "a label store is for two images or more"
        if views.batch < 2 or (self.group is not None and self.group < 2):
            return f"batches of {views.batch} and groups of {self.group}; both must be 2 or more"
        if self.kind not in get_args(StoreKind) or not 0 <= self.weight <= most:
            return f"kind {self.kind!r} with weight {self.weight}; logits have 0 to 1, distances 0 or more"
        if views.order.ndim != 2 or not len(views.order):
            return f"tensor 'order' has shape {list(views.order.shape)}; it must be [epochs, {n}]"
        wanted = shapes(self.kind, epochs=views.epochs, n=n, batch=views.batch, classes=classes)
        tensors = self.tensors()
        for name, shape in wanted.items():
            if tuple(tensors[name].shape) != shape:
                return f"tensor {name!r} has shape {list(tensors[name].shape)}; it must be {list(shape)}"
        if not torch.equal(views.order.sort(1).values, torch.arange(n).expand_as(views.order)):
            return f"tensor 'order' must have each of 0..{n - 1} once in every epoch"
        for batch in views.batches:
            inside = (views.partners[:, batch] >= batch.start) & (views.partners[:, batch] < batch.stop)
            if not bool(inside.all()):
                return "tensor 'partners' has views of another batch"
        corners, sides = views.boxes.split(2, 2)
        if not bool(((corners >= -size) & (sides >= 1) & (corners + sides <= 2 * size)).all()):
            return f"tensor 'boxes' has one without pixels, or that is more than {size} pixels outside the image"
        first, last = views.patches.split(2, 2)
        if not bool(((first >= 0) & (first <= last) & (last <= size)).all()):
            return "tensor 'patches' has one that is not inside the image"
        if not bool(((views.shares >= 0) & (views.shares <= 1)).all()):
            return "tensor 'shares' has values outside 0..1"
        if not bool(self.values.isfinite().all()):
            return "tensor 'values' has values that are NaN or infinite"
        return None


def shapes(kind: StoreKind, *, epochs: int, n: int, batch: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a store."""
    batches = len(range(0, n - 1, batch))  # as many as `parts`, without a list: n may be a stranger's claim
    return {
        "order": (epochs, n),
        "boxes": (epochs, n, 4),
        "mirrored": (epochs, n),
        "partners": (epochs, n),
        "patches": (epochs, batches, 4),
        "shares": (epochs, batches),
        "values": (epochs, n, classes if kind == "logits" else 2),
    }
