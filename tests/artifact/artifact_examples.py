"""Small synthetic sets, and the artifacts made from them."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense.artifact import DatasetRecord, MethodRecord, save_artifact
from condense.data.preprocess import Preprocessing
from condense.rng import generator
from condense.synthetic import DistilledSet, LabelStore, draw_views

CLASSES = ("ant", "bee", "cat/dog")
RECORD = {"network": "convnet", "protocol": "quick", "n": 2, "mean": 0.5, "ci95": 0.1, "values": (0.4, 0.6), "seed": 3}


@dataclass(frozen=True)
class Example:
    distilled: DistilledSet
    preprocessing: Preprocessing
    pixels: Tensor


def example(kind: str = "mean_std", channels: int = 3, *, soft: bool = False, ipc: int = 2, seed: int = 0) -> Example:
    """Random pixels on the 8-bit grid, [3 ipc, channels, 4, 5], and their preprocessed form."""
    random = torch.Generator().manual_seed(seed)
    n, d = len(CLASSES) * ipc, channels * 20
    pixels = torch.randint(256, (n, channels, 4, 5), generator=random) / 255
    if kind == "mean_std":
        tensors = {"mean": torch.rand(channels, generator=random), "std": 0.1 + torch.rand(channels, generator=random)}
        z = (pixels - tensors["mean"].view(-1, 1, 1)) / tensors["std"].view(-1, 1, 1)
    else:
        mean, root = torch.rand(d, generator=random), torch.randn(d, d, generator=random, dtype=torch.float64)
        matrix = torch.eye(d, dtype=torch.float64) + 0.1 * root @ root.T / d
        tensors = {"mean": mean, "matrix": matrix.float(), "inverse": matrix.inverse().float()}
        z = ((pixels.flatten(1) - mean) @ tensors["matrix"]).view_as(pixels)
    labels = torch.arange(len(CLASSES)).repeat_interleave(ipc)
    if soft:
        labels = (4.0 * torch.nn.functional.one_hot(labels, len(CLASSES)) + torch.rand(n, 3, generator=random)).softmax(
            1
        )
    return Example(DistilledSet(z, labels, 0.03), Preprocessing.from_tensors(kind, tensors), pixels)


def with_store(kind: str = "logits", mix: str = "cutmix", factor: int = 1, **settings: Any) -> Example:
    """The example, its images cut to squares, with labels for 3 epochs of views in batches of 4."""
    made = example()
    images, n = made.distilled.images[..., :4].contiguous(), 6 * factor**2
    views = draw_views(
        n,
        4,
        epochs=3,
        batch=4,
        crop="resized",
        smallest=0.2,
        mirrored=True,
        mix=mix,
        draws=lambda epoch: generator(0, f"views.{mix}", epoch),
    )
    values = torch.randn(3, n, 3 if kind == "logits" else 2, generator=generator(0, "values")).half()
    store = LabelStore(views, kind, values, **settings)
    return replace(made, distilled=replace(made.distilled, images=images, factor=factor, store=store))


def with_compensators(*, soft: bool = False, store: bool = False) -> Example:
    """The example with 3 compensators for each of its 2 groups: 24 images to train on."""
    made = example(ipc=2)
    images, n = made.distilled.images[..., :4].contiguous(), 24
    given = torch.randn(2, 3, *images.shape[1:], generator=generator(0, "compensators"))
    labels = made.distilled.labels.repeat_interleave(4)
    if soft:
        labels = torch.rand(n, 3, generator=generator(0, "labels")).softmax(1)
    distilled = replace(made.distilled, images=images, labels=labels, compensators=given)
    if store:
        distilled = replace(distilled, store=with_store(factor=2).distilled.store)
    return replace(made, distilled=distilled)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """The manifest of a set, with a new seal where it has one: the SHA-256 of the file with zeros in its place."""
    text = json.dumps(manifest | ({"seal": "0" * 64} if "seal" in manifest else {}))
    text = text.replace('"seal": "' + "0" * 64, '"seal": "' + hashlib.sha256(text.encode()).hexdigest())
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def save(folder: Path, made: Example, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "preprocessing": made.preprocessing,
        "classes": CLASSES,
        "method": MethodRecord(name="ftd", ipc=2, citation="Du et al., 2023"),
        "dataset": DatasetRecord(name="toy", sha256="ab" * 32, source="made here"),
        "config": {"syn_steps": 20, "lr_img": 100.0, "networks": ["convnet"], "ema": None},
        "provenance": {"syn_steps": "recipe"},
        "evaluations": [RECORD],
    }
    return save_artifact(folder, made.distilled, **{**arguments, **changes})
