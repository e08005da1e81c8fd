"""What the decoupled methods share: teachers that a set is made from, and the labels that they give to its views.

Yin, Xing and Shen, "Squeeze, Recover and Relabel", NeurIPS 2023, arXiv 2306.13092. Teachers are trained on the real
data ("squeeze"); the images come from them, or from real images that they judge ("recover"); then, for every epoch that
a student will train, each image is cut, mirrored and mixed, and the teachers say what they see ("relabel"): what they
say is kept with the numbers that make the view again, as Shen and Xing do (FKD, ECCV 2022, arXiv 2112.01528).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, ClassVar, Generic, Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor

from condense.methods.base import MethodConfig, Metrics, Names, Need, NetworkSpec, Problem
from condense.synthetic import (
    DistilledSet,
    LabelStore,
    ShownBatch,
    State,
    StoreKind,
    Views,
    draw_views,
    hard_labels,
    parts,
    relabel,
)
from condense.teachers import SqueezePlan, Teacher

VIEW = "what a view shows: resized, a part, enlarged; shifted, all of the image, moved by up to an eighth; none, all"


class DecoupledConfig(MethodConfig):
    """Keys of the teachers and of the labels."""

    teachers: Annotated[tuple[NetworkSpec, ...], Names, Field(min_length=1)] = Field(
        ("resnet18:norm=batch",),
        strict=False,
        description="networks that are trained on the real data; they need batch norm where images are recovered",
    )
    teacher_epochs: int = Field(200, ge=1, description="epochs of their training")
    teacher_optimizer: Literal["sgd", "adam"] = Field("sgd", description="its optimiser; its rate falls by a cosine")
    teacher_lr: float = Field(0.1, gt=0, description="its learning rate")
    teacher_momentum: float = Field(0.9, ge=0, lt=1, description="its momentum; Adam's beta_1")
    teacher_weight_decay: float = Field(5e-4, ge=0, description="its weight decay")
    teacher_batch: int = Field(128, ge=2, description="its batch size")
    label_epochs: int = Field(300, ge=1, description="epochs of views that get labels: those that a student trains")
    label_batch: int = Field(100, ge=2, description="images of a batch of views")
    label_view: Literal["resized", "shifted", "none"] = Field("resized", description=VIEW)
    label_area: float = Field(0.08, gt=0, le=1, description="smallest part of an image that a resized view shows")
    label_mix: Literal["cutmix", "mixup", "none"] = Field("cutmix", description="how two views become one")
    label_bn: Literal["eval", "batch"] = Field(
        "eval", description="batch norm of teachers that label: running statistics, or those of the images they see"
    )
    label_group: int | None = Field(
        None, ge=2, description="images that teachers label, and students take, together, by `batch`; none: label_batch"
    )

    def misfits(self, ipc: int, classes: int, validation: int) -> list[str]:
        found = super().misfits(ipc, classes, validation)
        if self.label_view != "resized":
            found += self.idle(f"label_view = {self.label_view!r}", "label_area")
        if self.label_bn == "eval":
            found += self.idle("label_bn = 'eval'", "label_group")
        return found

    def plans(self, dsa: str) -> list[SqueezePlan]:
        """How each teacher is trained; `dsa` is the run's augmentation strategy, which says what may be mirrored."""
        return [
            SqueezePlan(
                network=spec,
                epochs=self.teacher_epochs,
                optimizer=self.teacher_optimizer,
                lr=self.teacher_lr,
                momentum=self.teacher_momentum,
                weight_decay=self.teacher_weight_decay,
                batch=self.teacher_batch,
                mirrored="flip" in dsa,
            )
            for spec in self.teachers
        ]

    def trials(self, teachers: Sequence[Teacher], images: Tensor) -> Iterator[Callable[[], object]]:  # noqa: ARG002
        """What the method will ask of its teachers, to be tried before they are trained.

        `teachers` are untrained, each kind once and in their order; `images` [2, ch, s, s] are of no meaning. Calling
        one raises ConfigError if it is asked in vain.
        """
        yield from ()

    @property
    def stores_labels(self) -> bool:
        """Whether the set has a label store, of which only protocols that distil take notice."""
        return True


C = TypeVar("C", bound=DecoupledConfig)


class Decoupled(Generic[C]):
    """Base of the methods. State: `images` at least. Each says where these come from."""

    name: ClassVar[str]
    family: ClassVar[str] = "decoupled"
    Config: ClassVar[type[MethodConfig]]
    needs: ClassVar[frozenset[Need]] = frozenset({Need.POOL})

    def __init__(self, config: MethodConfig) -> None:
        assert type(config) is self.Config
        self.config = cast(C, config)

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:  # noqa: ARG002
        """By default nothing is learned: such methods run for 0 iterations."""
        raise AssertionError(f"{self.name} has no iterations")

    def fill(self, state: State) -> None:
        """Nothing to do: a state keeps its size."""

    def images(self, state: State, problem: Problem) -> Tensor:  # noqa: ARG002
        """The images to train on [n, ch, s, s], class by class, of each class as many."""
        return state["images"]

    def label_weights(self, problem: Problem) -> list[float]:
        """Of each teacher in the logits that label a view. By default all the same."""
        return [1 / len(problem.pool)] * len(problem.pool)

    def label(self, problem: Problem, batch: ShownBatch) -> Tensor:
        """What the teachers say of a batch of views, [b, classes]: the weighted sum of their logits."""
        c, groups = self.config, [batch.x[part] for part in parts(len(batch.x), self.group)]
        return torch.stack(
            [
                weight * torch.cat([teacher.logits(group, bn=c.label_bn) for group in groups])
                for weight, teacher in zip(self.label_weights(problem), problem.pool, strict=True)
            ]
        ).sum(0)

    @property
    def group(self) -> int:
        """Images that teachers see together."""
        return self.config.label_group or self.config.label_batch

    @property
    def shared(self) -> int | None:
        """The same, where batch norm takes the statistics of these images; a store keeps it for the student."""
        return self.group if self.config.label_bn == "batch" else None

    def store(self, problem: Problem, images: Tensor, labels: Tensor, views: Views) -> LabelStore:  # noqa: ARG002
        """What the teachers say of views of the images, whose classes are `labels` [n]. By default their logits."""
        logits = self.values(problem, images, views, "logits", lambda batch: self.label(problem, batch))
        return LabelStore(views, "logits", logits, group=self.shared)

    def values(
        self, problem: Problem, images: Tensor, views: Views, kind: StoreKind, label: Callable[[ShownBatch], Tensor]
    ) -> Tensor:
        """Those of a store of this kind, as `relabel` makes them, watched."""
        with problem.watch("labels", views.epochs * len(views.batches)) as done:
            return relabel(images, views, label, what=f"{self.name}: {kind}", poll=done)

    def distilled(self, state: State, problem: Problem) -> DistilledSet:
        c, images = self.config, self.images(state, problem)
        views = draw_views(
            len(images),
            images.shape[-1],
            epochs=c.label_epochs,
            batch=c.label_batch,
            crop=c.label_view,
            smallest=c.label_area,
            mirrored="flip" in problem.augmentation.operations,
            mix=c.label_mix,
            draws=lambda epoch: problem.rng("labels", epoch),
        )
        classes = problem.data.num_classes
        labels = hard_labels(classes, len(images) // classes, images.device)
        return DistilledSet(images, labels, store=self.store(problem, images, labels, views))
