"""Knowledge distillation on a subset: real images, and labels of their views. What decoupled methods are held against.

Ben-Baruch, Botach, Kviatkovsky, Aggarwal and Medioni, "Distilling the Knowledge in Data Pruning", ICML 2025, arXiv
2403.07854. A student of the subset learns, with z and q the logits of the student and of its teachers and T the
temperature of the protocol,

    L = (1 - alpha) CE(z, y) + alpha T^2 KL(softmax(q / T) || softmax(z / T))

The paper finds random images as good as any, and that the best alpha is the larger, the smaller the subset. So the
defaults are random images and alpha = 1: the images of `random` in the place of those that are made, with everything
else as in the methods that make them. The other subsets are the images of each class with the highest (or lowest) score
of `condense.teachers.hardness`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from condense import rng
from condense.methods.base import MethodConfig, Problem, register
from condense.methods.coreset import CoresetConfig
from condense.methods.decoupled import Decoupled, DecoupledConfig
from condense.synthetic import LabelStore, State, Views, sample_per_class
from condense.teachers import Score, Teacher, hardness, last_linear

LEAST = 0.1
"""The smallest alpha that the rule gives."""


class KDSubsetConfig(CoresetConfig, DecoupledConfig):
    """Hyper-parameters of distillation on a subset."""

    score: Literal["random"] | Score = Field(
        "random", description="how images are chosen: at random, or by how hard they are for networks in training"
    )
    keep: Literal["hard", "easy"] = Field("hard", description="images with the highest scores, or with the lowest")
    score_networks: int = Field(10, ge=1, description="networks that score, trained as the first teacher is")
    score_epochs: int = Field(20, ge=1, description="epochs after which their training is left")
    alpha: float | None = Field(
        1.0,
        ge=0,
        le=1,
        description="part of the teachers' labels in the student's loss, the rest is cross-entropy with the hard ones; "
        "none: 1 - (part of the training images that is kept), 0.1 at least",
    )

    def misfits(self, ipc: int, classes: int, validation: int) -> list[str]:
        found = super().misfits(ipc, classes, validation)
        if self.score == "random":
            found += self.idle("score = 'random'", "keep", "score_networks", "score_epochs")
        elif self.score_epochs > self.teacher_epochs:
            found.append(
                f"score_epochs = {self.score_epochs}: networks that score are trained as the first teacher is, for its "
                f"first epochs, and it has teacher_epochs = {self.teacher_epochs}. Lower score_epochs"
            )
        return found

    def trials(self, teachers: Sequence[Teacher], images: Tensor) -> Iterator[Callable[[], object]]:
        yield from super().trials(teachers, images)
        if self.score == "grand":
            yield partial(last_linear, teachers[0].name, teachers[0].module, images)


@register
class KDSubset(Decoupled[KDSubsetConfig]):
    name: ClassVar[str] = "kd_subset"
    summary: ClassVar[str] = "real images of each class, random or by a score, and teachers' labels of their views"
    citation: ClassVar[str] = """@inproceedings{benbaruch2025distilling,
  title = {Distilling the Knowledge in Data Pruning},
  author = {Ben-Baruch, Emanuel and Botach, Adam and Kviatkovsky, Igor and Aggarwal, Manoj and Medioni, G{\\'e}rard},
  booktitle = {ICML}, year = {2025}, eprint = {2403.07854}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = KDSubsetConfig
    family: ClassVar[str] = "real images"

    def pick(self, problem: Problem) -> Tensor:
        """Row numbers of the training set [classes ipc], class by class; by a score, the most extreme first."""
        c, data = self.config, problem.data
        if c.score == "random":
            return sample_per_class(problem.members, problem.ipc, problem.rng("init.images"))
        with problem.watch("scores", c.score_networks * c.score_epochs) as done:
            scores = hardness(
                c.score,
                c.plans(problem.augmentation.strategy)[0],
                problem.inputs,
                data.train.labels,
                classes=data.num_classes,
                seed=rng.address(problem.seed, "scores"),  # so that none of them is a teacher in its youth
                networks=c.score_networks,
                epochs=c.score_epochs,
                poll=done,
            ).cpu()
        rows = []
        for label, members in enumerate(problem.members):
            drawn = members[torch.randperm(len(members), generator=problem.rng("ties", label))]
            order = scores[drawn].argsort(descending=c.keep == "hard", stable=True)
            rows.append(drawn[order[: problem.ipc]])
        return torch.cat(rows)

    def init(self, problem: Problem) -> State:
        return {"images": problem.preprocessing(problem.data.train.images[self.pick(problem)])}

    def store(self, problem: Problem, images: Tensor, labels: Tensor, views: Views) -> LabelStore:
        return replace(super().store(problem, images, labels, views), weight=self.alpha(problem))

    def alpha(self, problem: Problem) -> float:
        """As given, or max(1 - f, 0.1) for the part f of the training images that is kept.

        The rule is ours. The paper finds alpha by trying.
        """
        if self.config.alpha is not None:
            return self.config.alpha
        return max(1 - problem.data.num_classes * problem.ipc / len(problem.data.train), LEAST)
