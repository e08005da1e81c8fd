"""CV-DD: images recovered by the votes of a committee, labelled by the statistics of the batch they are in.

Cui, Li, Ma, Bi, Luo and Shen, "Dataset Distillation via Committee Voting", 2025, arXiv 2501.07575. SRe2L++ (patches to
start from, resized views, batch-specific soft labels) with several teachers j, of held-out accuracies a_j in percent:

    L = sum over j in V of p_j (CE_j + r_bn R_j),      p = softmax(a / vote_temperature) over V
    label = sum over all j of w_j f_j(view),           w = softmax(a / label_temperature)

V are `voters` teachers, other ones for each number of an image in its class. Teachers label with batch norm by the
statistics of the views at hand, in groups that students will take in the same way.

The paper takes accuracies on the test set for a, and chooses V for one image per class by hand, for ten as all ten
pairs of five teachers, and at random for fifty. Here all V come in turn, those of the highest sum of a first.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from condense.methods.base import MethodConfig, Names, NetworkSpec, Problem, register
from condense.methods.recover import START, PixelsConfig, RecoverPixels, Start, Voter
from condense.teachers import Teacher


class CVDDConfig(PixelsConfig):
    """Hyper-parameters of CV-DD."""

    teachers: Annotated[tuple[NetworkSpec, ...], Names, Field(min_length=1)] = Field(
        (
            "resnet18:norm=batch",
            "torchvision:resnet50",
            "torchvision:shufflenet_v2_x0_5",
            "torchvision:mobilenet_v2",
            "torchvision:densenet121",
        ),
        strict=False,
        description="the committee: networks that are trained on the real data, with batch norm",
    )
    teacher_optimizer: Literal["sgd", "adam"] = Field("adam", description="its optimiser; its rate falls by a cosine")
    teacher_lr: float = Field(1e-3, gt=0, description="its learning rate")
    teacher_weight_decay: float = Field(1e-4, ge=0, description="its weight decay")
    teacher_batch: int = Field(512, ge=2, description="its batch size")
    iterations: int = Field(4000, ge=1, description="updates of the images")
    init: Start = Field("medium", description=START)
    view: Literal["whole", "resized"] = Field(
        "resized", description="what of the images a teacher sees: all, or a part, enlarged"
    )
    voters: int = Field(2, ge=1, description="teachers that vote on an image; all, if there are fewer")
    vote: Literal["prior", "equal"] = Field(
        "prior", description="weights in votes and labels: by held-out accuracy, or equal"
    )
    vote_temperature: float = Field(5.0, gt=0, description="of the votes' softmax over accuracies in percent")
    label_temperature: float = Field(10.0, gt=0, description="of the labels' softmax over accuracies in percent")
    label_batch: int = Field(16, ge=2, description="images of a batch of views")
    label_bn: Literal["eval", "batch"] = Field(
        "batch", description="batch norm of teachers that label: running statistics, or those of the images they see"
    )
    label_group: int | None = Field(
        8, ge=2, description="images that teachers label, and students take, together, by `batch`; none: label_batch"
    )

    def misfits(self, ipc: int, classes: int, validation: int) -> list[str]:
        found = super().misfits(ipc, classes, validation)
        if self.vote == "prior" and not validation:
            found.append(
                "vote = 'prior' weighs teachers by their accuracy on a validation split, and there is none. Set "
                "validation above 0, or vote to 'equal'"
            )
        if self.vote == "equal":
            found += self.idle("vote = 'equal'", "vote_temperature", "label_temperature")
        return found


@register
class CVDD(RecoverPixels[CVDDConfig]):
    name: ClassVar[str] = "cvdd"
    summary: ClassVar[str] = "recover images by the votes of a committee of teachers, and label by batch statistics"
    citation: ClassVar[str] = """@misc{cui2025cvdd,
  title = {Dataset Distillation via Committee Voting},
  author = {Cui, Jiacheng and Li, Zhaoyi and Ma, Xiaochen and Bi, Xinyue and Luo, Yaxin and Shen, Zhiqiang},
  year = {2025}, eprint = {2501.07575}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = CVDDConfig

    def committees(self, problem: Problem) -> Sequence[Sequence[Voter]]:
        """All V, each with its p."""
        choices = sorted(
            combinations(problem.pool, min(self.config.voters, len(problem.pool))),
            key=lambda chosen: -sum(teacher.accuracy or 0 for teacher in chosen),
        )
        weights = [self.weights(chosen, self.config.vote_temperature) for chosen in choices]
        return [[*map(Voter, *voters)] for voters in zip(weights, choices, strict=True)]

    def label_weights(self, problem: Problem) -> list[float]:
        """w"""
        return self.weights(problem.pool, self.config.label_temperature)

    def weights(self, teachers: Sequence[Teacher], temperature: float) -> list[float]:
        """softmax(100 accuracy / temperature), or the same for all."""
        if self.config.vote == "equal":
            return [1 / len(teachers)] * len(teachers)
        best = max(teacher.accuracy or 0 for teacher in teachers)
        powers = [math.exp(100 * ((teacher.accuracy or 0) - best) / temperature) for teacher in teachers]
        return [power / sum(powers) for power in powers]
