"""What all methods share that learn their images: how these start, move, and become what networks are trained on."""

from typing import ClassVar, Generic, Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor

from condense.methods.base import MethodConfig, Problem
from condense.synthetic import (
    DistilledSet,
    Initial,
    State,
    decode,
    encode,
    hard_labels,
    initial_images,
    sgd_,
    with_mirror,
)


class LearnedConfig(MethodConfig):
    """Keys of every method that learns its images."""

    lr_img: float = Field(1.0, gt=0, description="learning rate of the images")
    momentum_img: float = Field(0.5, ge=0, lt=1, description="momentum of the images")
    init: Initial = Field("real", description="where the images start")
    factor: Literal[1, 2, 3, 4] = Field(
        1, description="multi-formation (IDC): each stored image is factor x factor smaller ones"
    )
    flip: bool = Field(False, description="FYI: the images are matched together with their mirror images")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the images' moving average; 0 turns it off")

    @property
    def cells(self) -> int:
        return self.factor**2

    @property
    def views(self) -> int:
        """Images that the method sees for each stored image."""
        return self.cells * (2 if self.flip else 1)


C = TypeVar("C", bound=LearnedConfig)


class Learned(Generic[C]):
    """Base of the methods. State: images, their momentum, labels, and the moving average `ema` if it is on."""

    Config: ClassVar[type[MethodConfig]]

    def __init__(self, config: MethodConfig) -> None:
        assert type(config) is self.Config
        self.config = cast(C, config)

    def init(self, problem: Problem) -> State:
        c = self.config
        start = self.start(problem, problem.ipc * (1 if c.init == "noise" else c.factor**2))
        images = start if c.init == "noise" else encode(start, c.factor)
        images = images.to(problem.network.dtype)
        state = {
            "images": images,
            "images.momentum": torch.zeros_like(images),
            "labels": hard_labels(problem.data.num_classes, problem.ipc, images.device),
        }
        if c.ema_decay:
            state["ema"] = images.clone()
        return state

    def start(self, problem: Problem, count: int) -> Tensor:
        """The images that the set starts from, `count` of each class, class by class."""
        return initial_images(
            self.config.init,
            problem.data.train,
            problem.preprocessing,
            classes=problem.data.num_classes,
            ipc=count,
            draws=problem.rng("init.images"),
        )

    def expand(self, stored: Tensor) -> Tensor:
        """What the method matches: stored [n, ...] -> [n views, ...], the views of image i next to each other."""
        images = decode(stored, self.config.factor)
        return with_mirror(images) if self.config.flip else images

    def logits(self, problem: Problem, theta: Tensor, stored: Tensor) -> Tensor:
        """What a network says of stored images: logits [n, classes], for each the mean over its views."""
        logits = problem.logits(theta, self.expand(stored))
        return logits.view(len(stored), self.config.views, -1).mean(1)

    def update_images(self, state: State, gradient: Tensor) -> None:
        """One step down the gradient; then ema <- d ema + (1 - d) images, which the optimiser never sees."""
        self.descend(state, gradient)
        d = self.config.ema_decay
        if d:
            state["ema"].mul_(d).add_(state["images"], alpha=1 - d)

    def descend(self, state: State, gradient: Tensor) -> None:
        """The step itself. By default of SGD with momentum."""
        sgd_(state, "images", gradient, lr=self.config.lr_img, momentum=self.config.momentum_img)

    def fill(self, state: State) -> None:
        """Nothing to do: a state keeps its size."""

    def result(self, state: State) -> Tensor:
        """The images that are handed over."""
        return state["ema"] if self.config.ema_decay else state["images"]

    def distilled(self, state: State, problem: Problem) -> DistilledSet:  # noqa: ARG002
        return DistilledSet(self.result(state), state["labels"], factor=self.config.factor)
