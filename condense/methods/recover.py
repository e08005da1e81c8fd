"""What the methods share that recover images from the statistics of teachers.

Yin, Xing and Shen, NeurIPS 2023, arXiv 2306.13092, equation 5; Yin et al., "Dreaming to Distill", CVPR 2020, arXiv
1912.08795. Images come in blocks, one of each class: the blocks of an iteration know nothing of each other, since batch
norm sees a block at a time. One iteration i of I, for a block x with the labels y, and voters j with weights p_j:

    z = view_i(x)                                  one part, mirror and shift for the whole block
    L = sum_j p_j (CE(f_j(z), y) + r_bn R_j(z))
    x descends dL/dx by Adam (beta 0.5 and 0.9) at the rate lr_img / 2 (1 + cos(pi i / I)), and is clamped to pixels

R is the distance of the statistics of z from those that batch norm gathered (`condense.objectives.statistics`). All
blocks move in an iteration, where published code makes them one after another: the numbers are the same.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from condense.augment import cut, draw_boxes
from condense.methods.base import Metrics, Problem, check_finite
from condense.methods.decoupled import Decoupled, DecoupledConfig
from condense.methods.patches import Choice, PatchConfig, patched_images
from condense.synthetic import State, adam_, adam_moments, clamp_to_pixels, hard_labels, initial_images
from condense.teachers import Teacher

SQUARE_DECAY = 0.9
"""Adam's beta_2."""
Start = Literal["noise", "real", Choice]
START = "where the images start: noise, real images, or patches of these, by their loss or by activation maps"


class RecoverConfig(DecoupledConfig):
    """Keys of the methods."""

    iterations: int = Field(1000, ge=1, description="updates of the images")
    lr_img: float = Field(0.25, gt=0, description="Adam's learning rate for the images at the start")
    momentum_img: float = Field(0.5, ge=0, lt=1, description="Adam's beta_1 for the images")
    r_bn: float = Field(0.01, ge=0, description="weight of the statistics of batch norm")
    view: Literal["whole", "resized"] = Field(
        "whole", description="what of the images a teacher sees: all, or a part, enlarged"
    )
    view_area: float = Field(0.08, gt=0, le=1, description="smallest part that a resized view shows")
    view_easy: float = Field(
        0.0, ge=0, le=1, description="CDA: the part of the iterations in which view_area comes down from 1"
    )
    jitter: int = Field(4, ge=0, description="pixels by which a view is rolled at most, either way down and right")

    unit: ClassVar[str] = "blocks of images (ipc; class_batch, if a block has not all classes)"

    def misfits(self, ipc: int, classes: int, validation: int) -> list[str]:
        found = super().misfits(ipc, classes, validation)
        if self.view == "whole":
            found += self.idle("view = 'whole'", "view_area", "view_easy")
        return found

    def trials(self, teachers: Sequence[Teacher], images: Tensor) -> Iterator[Callable[[], object]]:
        yield from super().trials(teachers, images)
        yield from (partial(teacher.describe, images) for teacher in teachers)


class PixelsConfig(RecoverConfig, PatchConfig):
    """Keys of the methods that learn every pixel of every image."""

    init: Start = Field("noise", description=START)
    class_batch: int = Field(100, ge=1, description="classes of a block at most")

    def units(self, ipc: int, classes: int) -> int:
        return ipc * math.ceil(classes / self.class_batch)

    def real_per_class(self, ipc: int, classes: int) -> int:
        """One for each patch, if the images start from any."""
        return ipc if self.init in ("noise", "real") else super().real_per_class(ipc, classes)

    def misfits(self, ipc: int, classes: int, validation: int) -> list[str]:
        found = super().misfits(ipc, classes, validation)
        if self.init in ("noise", "real"):
            found += self.idle(f"init = {self.init!r}", "candidates", "crops", "patch_factor")
        return found

    def trials(self, teachers: Sequence[Teacher], images: Tensor) -> Iterator[Callable[[], object]]:
        yield from super().trials(teachers, images)
        if self.init == "critical":
            yield partial(teachers[0].activation_map, images, torch.zeros(len(images), dtype=torch.int64))


C = TypeVar("C", bound=RecoverConfig)
P = TypeVar("P", bound=PixelsConfig)


class Voter(NamedTuple):
    """A teacher and its weight in the loss."""

    weight: float
    teacher: Teacher


class Block(NamedTuple):
    """Rows of what is learned that teachers see together: their labels int64 [b], and the voters."""

    rows: Tensor
    labels: Tensor
    voters: Sequence[Voter]


class Recover(Decoupled[C]):
    """Base of the methods. Each says what is learned, `learned` in the state beside what Adam knows of it."""

    learned: ClassVar[str] = "images"

    def blocks(self, problem: Problem) -> list[Block]:
        """What the teachers see together, in the order of their draws."""
        raise NotImplementedError

    def pixels(self, state: State, block: Block, part: Tensor) -> Tensor:  # noqa: ARG002
        """The images [b, ch, s, s] of a block, by what is learned of them. By default the same."""
        return part

    def view(self, images: Tensor, iteration: int, draws: torch.Generator, *, mirrored: bool) -> Tensor:
        """What a teacher sees of a block [b, ch, s, s] in an iteration: drawn once for all its images."""
        c, size = self.config, images.shape[-1]
        if c.view == "resized":
            box = draw_boxes(1, size, draws, smallest=self.smallest(iteration))
            mirror = torch.rand(1, generator=draws) < 0.5 if mirrored else None
            images = cut(images, box, mirror)
        down, right = torch.randint(c.jitter + 1, (2,), generator=draws).tolist()
        return images.roll((down, right), (2, 3))

    def smallest(self, iteration: int) -> float:
        """The least area that a view shows: view_area + (1 - view_area) (1 + cos(pi i / (k I))) / 2 for i < k I.

        Yin and Shen, "Dataset Distillation via Curriculum Data Synthesis in Large Data Era", TMLR 2024, arXiv
        2311.18838; k is view_easy, and after k I, as for k = 0, it is view_area.
        """
        c = self.config
        easy = c.view_easy * c.iterations
        if iteration >= easy:
            return c.view_area
        return c.view_area + (1 - c.view_area) * (1 + math.cos(math.pi * iteration / easy)) / 2

    def rate(self, iteration: int) -> float:
        """lr_img / 2 (1 + cos(pi i / I))"""
        return self.config.lr_img / 2 * (1 + math.cos(math.pi * iteration / self.config.iterations))

    def loss(self, problem: Problem, block: Block, images: Tensor, iteration: int, number: int) -> Tensor:
        """L of block `number`, differentiable by its images."""
        draws = problem.rng(f"recover.{number}", iteration)
        shown = self.view(images, iteration, draws, mirrored="flip" in problem.augmentation.operations)
        total = torch.zeros((), dtype=images.dtype, device=images.device)
        for weight, teacher in block.voters:
            logits, distance = teacher.describe(shown)
            total = total + weight * (F.cross_entropy(logits, block.labels) + self.config.r_bn * distance)
        return total

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:
        loss, gradient = self.gradient(state, problem, iteration)
        found = problem.work.total({"loss": loss, "gradient": gradient})
        check_finite(self.name, iteration, found, lambda: state | problem.trained)
        metrics = {"loss": float(found["loss"])}
        self.move(state, problem, found["gradient"], self.rate(iteration))
        return metrics

    def gradient(self, state: State, problem: Problem, iteration: int) -> tuple[Tensor, Tensor]:
        """The part of this process's blocks in the mean of L over all, and in the gradient of their sum.

        The gradient is by all that is learned, in this shape.
        """
        learned, blocks = state[self.learned], self.blocks(problem)
        gradient, loss = torch.zeros_like(learned), torch.zeros((), dtype=learned.dtype, device=learned.device)
        for number in problem.work.mine(len(blocks)):
            block = blocks[number]
            part = learned[block.rows].requires_grad_()
            of_block = self.loss(problem, block, self.pixels(state, block, part), iteration, number)
            gradient.index_add_(0, block.rows, torch.autograd.grad(of_block, part)[0])
            loss = loss + of_block.detach() / len(blocks)
        return loss, gradient

    def move(self, state: State, problem: Problem, gradient: Tensor, lr: float) -> None:  # noqa: ARG002
        """The step down the gradient."""
        adam_(state, self.learned, gradient, lr=lr, momentum=self.config.momentum_img, decay=SQUARE_DECAY)


class RecoverPixels(Recover[P]):
    """Base of the methods that learn every pixel. State: images, and what Adam knows of them."""

    def init(self, problem: Problem) -> State:
        state = {"images": self.start(problem)}
        return state | adam_moments(state, "images")

    def start(self, problem: Problem) -> Tensor:
        """The images [classes ipc, ch, s, s] that the set starts from, class by class."""
        c = self.config
        if c.init == "noise" or c.init == "real":
            images = initial_images(
                c.init,
                problem.data.train,
                problem.preprocessing,
                classes=problem.data.num_classes,
                ipc=problem.ipc,
                draws=problem.rng("init.images"),
            )
        else:
            images = patched_images(problem, problem.pool[0], c, c.init)
        return images.to(problem.network.dtype)

    def committees(self, problem: Problem) -> Sequence[Sequence[Voter]]:
        """Who judges the images number 0 of all classes, number 1, ...: they come in turn, again and again.

        By default there is one, of all teachers with equal weights.
        """
        return [[Voter(1 / len(problem.pool), teacher) for teacher in problem.pool]]

    def blocks(self, problem: Problem) -> list[Block]:
        """Image number 0 of every class, then number 1, ...; `class_batch` classes at a time."""
        count, ipc = problem.data.num_classes, problem.ipc
        labels = hard_labels(count, 1, problem.device)
        return [
            Block(part * ipc + index, part, voters)
            for index, voters in zip(range(ipc), cycle(self.committees(problem)), strict=False)
            for part in labels.split(self.config.class_batch)
        ]

    def move(self, state: State, problem: Problem, gradient: Tensor, lr: float) -> None:
        """The step, and back to what pixels can show."""
        super().move(state, problem, gradient, lr)
        state["images"] = clamp_to_pixels(state["images"], problem.preprocessing)
