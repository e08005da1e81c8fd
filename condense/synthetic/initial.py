"""Where a synthetic set starts."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from condense.data.preprocess import Preprocessing
from condense.data.types import Split
from condense.errors import ConfigError
from condense.loading import undisturbed

Initial = Literal["real", "noise", "mean", "kmeans"]

MEAN_OF = 10
"""Real images in each mean."""


def hard_labels(classes: int, ipc: int, device: torch.device) -> Tensor:
    """int64 [classes * ipc]: class c holds rows c * ipc .. (c + 1) * ipc - 1."""
    return torch.arange(classes, device=device).repeat_interleave(ipc)


def class_members(labels: Tensor, classes: int) -> list[Tensor]:
    """For each class the row numbers of its images, on the CPU, where rows are drawn."""
    labels = labels.cpu()
    return [torch.nonzero(labels == c).flatten() for c in range(classes)]


def sample_per_class(members: Sequence[Tensor], count: int, draws: torch.Generator) -> Tensor:
    """Row numbers [classes * count], `count` of each class, class by class.

    They are different, unless a class has fewer: then each of its images is drawn as often as the others, or once more.
    """
    rows = []
    for rows_of_class in members:
        passes = -(-count // len(rows_of_class))
        order = torch.cat([torch.randperm(len(rows_of_class), generator=draws) for _ in range(passes)])
        rows.append(rows_of_class[order[:count]])
    return torch.cat(rows)


def nearest_to_centres(points: Tensor, count: int, seed: int) -> Tensor:
    """`count` different row numbers of points [n, d]: for each k-means centre in turn the nearest not yet taken.

    k-means++ with 3 restarts and at most 300 rounds.
    """
    with undisturbed():
        from sklearn.cluster import KMeans  # 150 MB

    fitted = KMeans(n_clusters=count, n_init=3, random_state=seed).fit(points.numpy())
    distances = torch.cdist(torch.from_numpy(fitted.cluster_centers_).to(points), points)
    chosen: list[int] = []
    for row in distances:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)


def refuse_small_classes(kind: str, members: Sequence[Tensor], count: int) -> None:
    """Raise ConfigError if a class has fewer than `count` images, for ways to start that use none of them twice."""
    for c, rows in enumerate(members):
        if count > len(rows):
            raise ConfigError(
                f"init = {kind!r}: {count} different images of each class are wanted (ipc times factor^2), but "
                f"class {c} has {len(rows)}. Use init = 'real', or a smaller ipc or factor"
            )


def initial_images(
    kind: Initial, split: Split, preprocessing: Preprocessing, *, classes: int, ipc: int, draws: torch.Generator
) -> Tensor:
    """Images [classes * ipc, ch, h, w] in the preprocessed space, class by class.

    "real": training images, drawn without replacement. "noise": N(0, 1) for each pixel. "mean": each the mean of
    `MEAN_OF` training images of its class, drawn for it. "kmeans": the training images nearest to `ipc` k-means centres
    of the class, by the distance of preprocessed pixels; ConfigError if a class has too few, where the other kinds use
    some again.
    """
    if kind == "noise":
        shape = (classes * ipc, *split.images.shape[1:])
        return torch.randn(shape, generator=draws).to(split.images.device)
    members = class_members(split.labels, classes)
    match kind:
        case "real":
            return preprocessing(split.images[sample_per_class(members, ipc, draws)])
        case "mean":
            sampled = [sample_per_class(members, MEAN_OF, draws).view(classes, MEAN_OF) for _ in range(ipc)]
            images = preprocessing(split.images[torch.stack(sampled, 1).flatten()])
            return images.view(classes * ipc, MEAN_OF, *images.shape[1:]).mean(1)
        case "kmeans":
            refuse_small_classes(kind, members, ipc)
            chosen = []
            for rows in members:
                seed = int(torch.randint(2**31, (), generator=draws))
                pixels = preprocessing(split.images[rows]).flatten(1).cpu()
                chosen.append(rows[nearest_to_centres(pixels, ipc, seed)])
            return preprocessing(split.images[torch.cat(chosen)])
