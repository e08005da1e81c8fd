"""INFER: real images, and compensators that every class shares, each made for one teacher.

Zhang, Du, Liu and Zhou, "Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator",
ICLR 2025, arXiv 2408.06927. P_k are real images, one of each of the C classes, and the compensator u_kj is one image
that is added to all of them. With M teachers there are

    K = floor(ipc / (1 + M / C)) groups k

so that K C images and K M compensators together are no more than ipc C images. Networks are trained on K (M + 1) C of
them: P_k, and P_k + u_kj for each teacher j.

A compensator starts at 0 and is recovered (`condense.methods.recover`) from its own teacher alone:

    L(u_kj) = CE(f_j(z), 0 .. C - 1) + r_bn R_j(z),      z = view(P_k + u_kj)

Static labels are softmax(1/M sum_j f_j(x)) of every image x to train on; dynamic ones are logits of its views.
"""

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from condense.methods.base import MethodConfig, Names, NetworkSpec, Problem, check_finite, register
from condense.methods.decoupled import VIEW
from condense.methods.recover import Block, Recover, RecoverConfig, Voter
from condense.synthetic import (
    MOST_COMPENSATORS,
    DistilledSet,
    ShownBatch,
    State,
    adam_moments,
    compensated,
    hard_labels,
    initial_images,
)


class InferConfig(RecoverConfig):
    """Hyper-parameters of INFER."""

    teachers: Annotated[tuple[NetworkSpec, ...], Names, Field(min_length=1, max_length=MOST_COMPENSATORS)] = Field(
        (
            "resnet18:norm=batch",
            "torchvision:mobilenet_v2",
            "torchvision:efficientnet_b0",
            "torchvision:shufflenet_v2_x0_5",
        ),
        strict=False,
        description="networks that are trained on the real data, with batch norm; each makes compensators of its own",
    )
    r_bn: float = Field(1.0, ge=0, description="weight of the statistics of batch norm")
    labels: Literal["static", "dynamic"] = Field(
        "static", description="static: probabilities of each image, once; dynamic: logits of its views, epoch by epoch"
    )
    label_epochs: int = Field(80, ge=1, description="epochs of views that get labels: those that a student trains")
    label_batch: int = Field(64, ge=2, description="images of a batch of views")
    label_view: Literal["resized", "shifted", "none"] = Field("shifted", description=VIEW)
    label_mix: Literal["cutmix", "mixup", "none"] = Field("mixup", description="how two views become one")

    @property
    def stores_labels(self) -> bool:
        """Static labels are those of the set itself."""
        return self.labels == "dynamic"

    def groups(self, ipc: int, classes: int) -> int:
        """K"""
        return ipc * classes // (classes + len(self.teachers))

    def real_per_class(self, ipc: int, classes: int) -> int:
        """One for each group."""
        return self.groups(ipc, classes)

    unit: ClassVar[str] = "compensators (ipc and teachers)"

    def units(self, ipc: int, classes: int) -> int:
        return self.groups(ipc, classes) * len(self.teachers)

    def misfits(self, ipc: int, classes: int, validation: int) -> list[str]:
        found = super().misfits(ipc, classes, validation)
        if self.labels == "static":
            found += self.idle("labels = 'static'", "label_epochs", "label_view", "label_mix")
            if self.label_bn == "eval" or self.label_group:
                found += self.idle("labels = 'static' and it is no group of batch norm", "label_batch")
        if not self.groups(ipc, classes):
            m = len(self.teachers)
            found.append(
                f"ipc = {ipc}: a real image of each class and a compensator of each teacher are {classes} + {m} "
                f"images, more than {ipc} x {classes}. Choose ipc >= {1 + math.ceil(m / classes)}"
            )
        return found


@register
class Infer(Recover[InferConfig]):
    """State: images [C K, ch, s, s], class by class, which stay; compensators [K M, ch, s, s], group by group."""

    name: ClassVar[str] = "infer"
    summary: ClassVar[str] = "real images, and their sums with images that all classes share, labelled by teachers"
    citation: ClassVar[str] = """@inproceedings{zhang2025infer,
  title = {Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator},
  author = {Zhang, Xin and Du, Jiawei and Liu, Ping and Zhou, Joey Tianyi},
  booktitle = {ICLR}, year = {2025}, eprint = {2408.06927}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = InferConfig
    learned: ClassVar[str] = "compensators"

    def init(self, problem: Problem) -> State:
        """The images are those of `random` at this seed, the first K of each class."""
        classes, m = problem.data.num_classes, len(self.config.teachers)
        groups = self.config.groups(problem.ipc, classes)
        images = initial_images(
            "real",
            problem.data.train,
            problem.preprocessing,
            classes=classes,
            ipc=groups,
            draws=problem.rng("init.images"),
        ).to(problem.network.dtype)
        state = {"images": images, "compensators": images.new_zeros(groups * m, *images.shape[1:])}
        return state | adam_moments(state, "compensators")

    def blocks(self, problem: Problem) -> list[Block]:
        """One for each compensator: all classes of its group, before its teacher."""
        groups = self.config.groups(problem.ipc, problem.data.num_classes)
        labels = hard_labels(problem.data.num_classes, 1, problem.device)
        teachers = problem.pool * groups
        rows = torch.arange(len(teachers), device=problem.device).split(1)
        return [Block(row, labels, [Voter(1.0, teacher)]) for row, teacher in zip(rows, teachers, strict=True)]

    def pixels(self, state: State, block: Block, part: Tensor) -> Tensor:
        """P_k + u_kj [C, ch, s, s]"""
        of_class: Tensor = state["images"].unflatten(0, (len(block.labels), -1))
        return of_class[:, block.rows // len(self.config.teachers)].squeeze(1) + part

    def compensators(self, state: State) -> Tensor:
        """[K, M, ch, s, s]"""
        by_group: Tensor = state["compensators"].unflatten(0, (-1, len(self.config.teachers)))
        return by_group

    def images(self, state: State, problem: Problem) -> Tensor:  # noqa: ARG002
        return compensated(state["images"], self.compensators(state))

    def distilled(self, state: State, problem: Problem) -> DistilledSet:
        if self.config.labels == "dynamic":
            made = super().distilled(state, problem)
        else:
            images = self.images(state, problem)
            rows = torch.arange(len(images), device=images.device)
            labels = self.label(problem, ShownBatch(images, rows, rows, 1.0)).softmax(1)
            check_finite(self.name, self.config.iterations, {"labels": labels}, lambda: state | problem.trained)
            made = DistilledSet(images, labels)
        return replace(made, images=state["images"], compensators=self.compensators(state))
