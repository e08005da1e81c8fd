"""DC: dataset condensation with gradient matching.

Zhao, Mopuri and Bilen, ICLR 2021, arXiv 2006.05929, algorithm 1. Networks theta are drawn one after another; each is
used for `outer_loop` updates of the images, and trained on them in between:

    L = sum over classes c of D(grad CE(theta; x_r(c)), grad CE(theta; x_s(c)))
    images descend dL/dimages                                              one iteration
    theta is trained on the synthetic set for `inner_loop` epochs          unless a new network follows

D sums 1 - cosine over the rows of all weights (`condense.objectives.row_distance`).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from condense.augment import DSA, in_turn
from condense.methods.base import MethodConfig, Need, Problem, register
from condense.methods.gradient import GradientConfig, GradientMatching, train_step
from condense.objectives import cosine_distance, row_distance, squared_distance
from condense.synthetic import Initial, State

DISTANCES = {"rows": row_distance, "cosine": cosine_distance, "mse": squared_distance}
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10), 100: (100, 2)}
"""Image updates per network and epochs between them: the paper's table, and the authors' advice for 100."""


def loops(ipc: int) -> tuple[int, int]:
    """The published pair, or (ipc, 500 / ipc), which most of them follow."""
    return LOOPS.get(ipc, (ipc, max(1, round(500 / ipc))))


class DCConfig(GradientConfig):
    """Hyper-parameters of DC."""

    iterations: int = Field(1000, ge=0, description="updates of the synthetic set")
    lr_img: float = Field(0.1, gt=0, description="learning rate of the images")
    init: Initial = Field("noise", description="where the images start")
    outer_loop: int | None = Field(None, ge=1, description="image updates per network; none: by ipc, as published")
    inner_loop: int | None = Field(None, ge=0, description="epochs between them; none: by ipc, as published")
    lr_net: float = Field(0.01, gt=0, description="learning rate of the network")
    batch_train: int = Field(256, ge=1, description="synthetic images in a step of the network")
    distance: Literal["rows", "cosine", "mse"] = Field("rows", description="of gradients; rows is the paper's")

    def loops(self, ipc: int) -> tuple[int, int]:
        """Image updates per network, and epochs between them."""
        outer, inner = loops(ipc)
        return self.outer_loop or outer, inner if self.inner_loop is None else self.inner_loop

    def passes(self, classes: int, ipc: int) -> float:
        """Matching, and the training of the network between two updates."""
        outer, inner = self.loops(ipc)
        n = classes * ipc * self.views
        steps = -(-n // self.batch_train) * inner * (outer - 1) / outer
        return super().passes(classes, ipc) + min(self.batch_train, n) * steps


C = TypeVar("C", bound=DCConfig)


@register
class DC(GradientMatching[C]):
    name: ClassVar[str] = "dc"
    family: ClassVar[str] = "gradient"
    summary: ClassVar[str] = "match the gradients of each class while the network learns from the synthetic set"
    citation: ClassVar[str] = """@inproceedings{zhao2021dc,
  title = {Dataset Condensation with Gradient Matching},
  author = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},
  booktitle = {ICLR}, year = {2021}, eprint = {2006.05929}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = DCConfig
    needs: ClassVar[frozenset[Need]] = frozenset()

    def init(self, problem: Problem) -> State:
        """The images, and theta, which keeps the network from one iteration to the next."""
        return super().init(problem) | {"theta": self.new_network(problem, 0)}

    def new_network(self, problem: Problem, number: int) -> Tensor:
        return problem.network.init(problem.seed, "network", number)

    def network(self, state: State, problem: Problem, iteration: int) -> Tensor:
        number, updates = divmod(iteration, self.config.loops(problem.ipc)[0])
        return state["theta"] if updates else self.new_network(problem, number)

    def augmentations(self, problem: Problem) -> Sequence[DSA]:  # noqa: ARG002
        """DC matches images as they are."""
        return ()

    def distance(self, real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
        return DISTANCES[self.config.distance](real, synthetic)

    def after(self, state: State, problem: Problem, iteration: int, theta: Tensor) -> None:
        """Train the network on the synthetic set, unless the next iteration draws a new one."""
        outer, inner = self.config.loops(problem.ipc)
        state["theta"] = theta
        if (iteration + 1) % outer == 0:
            return
        images = self.expand(state["images"])
        labels = state["labels"].repeat_interleave(self.config.views)
        draws = problem.rng("training", iteration)
        for _ in range(inner):
            for rows in torch.randperm(len(images), generator=draws).to(images.device).split(self.config.batch_train):
                x = in_turn(self.augmentations(problem), images[rows], draws)
                theta, _ = train_step(problem, theta, torch.zeros_like(theta), x, labels[rows], lr=self.config.lr_net)
        state["theta"] = theta
