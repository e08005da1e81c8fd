"""What the real-image baselines share: they pick rows of the training set once, and never move them."""

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from condense.methods.base import BATCH, MethodConfig, Metrics, Need, Problem, TeacherConfig
from condense.synthetic import DistilledSet, State, hard_labels


class CoresetConfig(MethodConfig):
    """Nothing is optimised, so there are no iterations."""

    iterations: int = Field(0, ge=0, le=0, description="nothing is optimised: 0")


class TaughtCoresetConfig(CoresetConfig, TeacherConfig):
    """A coreset that is chosen or labelled by a trained network."""


class Coreset:
    """Base of the baselines: `pick` gives row numbers of the training set [classes * ipc], class by class."""

    family: ClassVar[str] = "real images"
    Config: ClassVar[type[MethodConfig]] = CoresetConfig
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    def pick(self, problem: Problem) -> Tensor:
        raise NotImplementedError

    def init(self, problem: Problem) -> State:
        images = problem.preprocessing(problem.data.train.images[self.pick(problem)])
        return {"images": images, "labels": hard_labels(problem.data.num_classes, problem.ipc, images.device)}

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:  # noqa: ARG002
        """Nothing is learned: these methods run for 0 iterations."""
        raise AssertionError("a coreset has no iterations")

    def fill(self, state: State) -> None:
        """Nothing to do: a state keeps its size."""

    def distilled(self, state: State, problem: Problem) -> DistilledSet:  # noqa: ARG002
        return DistilledSet(state["images"], state["labels"])


class EmbeddedCoreset(Coreset):
    """Base of the baselines that choose by distance in an embedding.

    The embedding is the input of the last layer of the run's own network, trained on the training split by
    `TeacherConfig` says; images are not augmented.
    """

    Config: ClassVar[type[MethodConfig]] = TaughtCoresetConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.EMBEDDING})

    def choose(self, features: Tensor, ipc: int, seed: int) -> Tensor:
        """`ipc` different rows of one class's features [n, d]."""
        raise NotImplementedError

    def pick(self, problem: Problem) -> Tensor:
        assert problem.teacher is not None
        rows = []
        for c, members in enumerate(problem.members):
            with torch.inference_mode():
                features = torch.cat(
                    [problem.network.embed(problem.teacher, problem.inputs[b]) for b in members.split(BATCH)]
                )
            seed = int(torch.randint(2**31, (), generator=problem.rng("coreset", c)))
            chosen = self.choose(features.double().cpu(), problem.ipc, seed)
            rows.append(members[chosen])
        return torch.cat(rows)


def greedy(first: int, count: int, score: Callable[[int], Tensor]) -> Tensor:
    """`first`, then again and again the row not yet taken with the lowest score; score(last) sees the last."""
    chosen = [first]
    while len(chosen) < count:
        scores = score(chosen[-1])
        scores[chosen] = torch.inf
        chosen.append(int(scores.argmin()))
    return torch.tensor(chosen)
