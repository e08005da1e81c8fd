"""NRR-DD: real patches whose background learns what a class has in common, and labels of two numbers.

Tran, Le, Le, Do and Phung, "Enhancing Dataset Distillation via Non-Critical Region Refinement", CVPR 2025, arXiv
2503.18267. Three stages, with C in [0, 1] for the activation map that the first teacher has of an image and its class:

1. Images start as patches where C is high, those that the teacher is least sure of (`condense.methods.patches`).
2. What is not critical, which is where C of this start is below eps, is recovered (`condense.methods.recover`); the
   other pixels keep their bits:

       M = max(0, eps - C),      x descends M times the step of Adam

3. A view has two distances for a label (DBR), instead of the logits z of the teachers: CE(z, y) for the class of its
   image, and CE(z, y') for that of the image mixed in. For what a student makes of them see
   `condense.objectives.distance_loss`.

Of the paper's numbers none could be had, and no code: the defaults are ours.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from condense.errors import ConfigError
from condense.methods.base import MethodConfig, Problem, register
from condense.methods.recover import SQUARE_DECAY, START, PixelsConfig, RecoverPixels, Start
from condense.objectives import distances
from condense.synthetic import (
    LabelStore,
    ShownBatch,
    State,
    StoreKind,
    Views,
    adam_,
    clamp_to_pixels,
    hard_labels,
)
from condense.teachers import Teacher, class_map


class NRRDDConfig(PixelsConfig):
    """Hyper-parameters of NRR-DD."""

    lr_img: float = Field(0.1, gt=0, description="Adam's learning rate for the images at the start")
    init: Start = Field("critical", description=START)
    eps: float = Field(0.5, gt=0, le=1, description="activation, of 0 to 1, from which on a pixel never changes")
    labels: StoreKind = Field("distances", description="of a view: the teachers' logits, or two distances (DBR)")
    dbr_weight: float = Field(1.0, ge=0, description="weight of these distances in a student's loss")

    def misfits(self, ipc: int, classes: int, validation: int) -> list[str]:
        found = super().misfits(ipc, classes, validation)
        if self.labels == "logits":
            found += self.idle("labels = 'logits'", "dbr_weight")
        return found

    def trials(self, teachers: Sequence[Teacher], images: Tensor) -> Iterator[Callable[[], object]]:
        """The first teacher has maps, of more than one position."""
        yield from super().trials(teachers, images)
        first = teachers[0]

        def see() -> None:
            maps = class_map(first.name, first.module, images, torch.zeros(len(images), dtype=torch.int64))
            if maps[0].numel() == 1:
                raise ConfigError(
                    f"teachers: {first.name!r} sees an image of {images.shape[-1]} px at a single position, so nothing "
                    "in it is critical. Put one first that shrinks it less, such as convnet:norm=batch"
                )

        yield see


@register
class NRRDD(RecoverPixels[NRRDDConfig]):
    """State: the mask M [classes ipc, 1, s, s] besides."""

    name: ClassVar[str] = "nrrdd"
    summary: ClassVar[str] = "recover what is not critical in patches of real images, and label views by distances"
    citation: ClassVar[str] = """@inproceedings{tran2025nrrdd,
  title = {Enhancing Dataset Distillation via Non-Critical Region Refinement},
  author = {Tran, Minh-Tuan and Le, Trung and Le, Xuan-May and Do, Thanh-Toan and Phung, Dinh},
  booktitle = {CVPR}, year = {2025}, eprint = {2503.18267}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = NRRDDConfig

    def init(self, problem: Problem) -> State:
        state = super().init(problem)
        labels = hard_labels(problem.data.num_classes, problem.ipc, problem.device)
        seen = problem.pool[0].activation_map(state["images"], labels)
        return state | {"mask": (self.config.eps - seen).clamp(min=0).unsqueeze(1)}

    def move(self, state: State, problem: Problem, gradient: Tensor, lr: float) -> None:
        """The step times M. What it leaves alone is not clamped either, which would mix whitened pixels."""
        before, mask = state["images"].clone(), state["mask"]
        adam_(state, "images", gradient, lr=lr, momentum=self.config.momentum_img, decay=SQUARE_DECAY, mask=mask)
        moved = clamp_to_pixels(state["images"], problem.preprocessing)
        state["images"] = torch.where(mask > 0, moved, before)

    def store(self, problem: Problem, images: Tensor, labels: Tensor, views: Views) -> LabelStore:
        if self.config.labels == "logits":
            return super().store(problem, images, labels, views)

        def of_batch(batch: ShownBatch) -> Tensor:
            return distances(self.label(problem, batch), labels[batch.rows], labels[batch.partner_rows])

        values = self.values(problem, images, views, "distances", of_batch)
        return LabelStore(views, "distances", values, weight=self.config.dbr_weight, group=self.shared)
