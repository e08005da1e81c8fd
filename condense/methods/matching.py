"""What the methods share that match real and synthetic images class by class, on one network per iteration.

One iteration, for a network theta, and for each class c an augmentation T_c that its real and synthetic images share:

    L = sum over c of D(theta; T_c x_r(c), T_c x_s(c))
    images descend dL/dimages

All classes go through the network together, or `class_batch` of them at a time: the sum comes apart by classes, so only
one such chunk is in memory, and the result is the same. Nothing of the real images' pass is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional as F

from condense.augment import DSA, apply_groups
from condense.methods.base import Metrics, Problem, check_finite
from condense.methods.learned import Learned, LearnedConfig
from condense.synthetic import State, sample_per_class


def _known(strategy: str) -> str:
    DSA(strategy)
    return strategy


Strategy = Annotated[str, AfterValidator(_known)]
"""An augmentation strategy of a method's own."""


class MatchingConfig(LearnedConfig):
    """Keys of every method that matches class by class."""

    batch_real: int = Field(256, ge=1, description="real images of each class in an iteration")
    batch_syn_max: int | None = Field(
        None, ge=1, description="synthetic images of each class in an iteration, drawn at random if there are more"
    )
    class_batch: int | None = Field(None, ge=1, description="classes in memory at a time; none: all")

    def synthetic_per_class(self, ipc: int) -> int:
        """Synthetic images of a class in an iteration."""
        return min(ipc * self.views, self.batch_syn_max or ipc * self.views)

    unit: ClassVar[str] = "classes"

    def units(self, ipc: int, classes: int) -> int:  # noqa: ARG002
        return classes

    def passes(self, classes: int, ipc: int) -> float:
        """The real images forward, the synthetic ones forward and backward."""
        return classes * (self.batch_real / 3 + self.synthetic_per_class(ipc))


@dataclass(frozen=True)
class ClassBatch:
    """The images of c classes in one iteration, augmented.

    stored [c ipc, ch, h, w]: the leaf that the others hang on, and its `rows` among all stored images;
    real [c, b, ch, h, w], synthetic [c, m, ch, h, w]; classes int64 [c].
    """

    rows: slice
    stored: Tensor
    real: Tensor
    synthetic: Tensor
    classes: Tensor

    def cross_entropies(self, logits: Tensor) -> Tensor:
        """The mean cross-entropy [c] of each class, for the logits [c, m, classes] of the synthetic images."""
        labels = self.classes[:, None].expand(logits.shape[:2])
        return F.cross_entropy(logits.mT, labels, reduction="none").mean(1)


C = TypeVar("C", bound=MatchingConfig)


class Matching(Learned[C]):
    """Base of the methods. Each gives `class_losses`, or `losses`, and what of the others is not as usual."""

    name: ClassVar[str]

    def network(self, state: State, problem: Problem, iteration: int) -> Tensor:  # noqa: ARG002
        """theta [P] of this iteration. By default a new random network."""
        return problem.network.init(problem.seed, "network", iteration)

    def augmentations(self, problem: Problem) -> Sequence[DSA]:
        """What is applied to the images of a class, one after another; each draws one operator for each class."""
        return (problem.augmentation,)

    def class_losses(self, problem: Problem, theta: Tensor, batch: ClassBatch) -> Tensor:
        """The loss [c] of each class of the batch, differentiable by batch.synthetic."""
        raise NotImplementedError

    def losses(self, state: State, problem: Problem, iteration: int, theta: Tensor, batch: ClassBatch) -> Tensor:  # noqa: ARG002
        """`class_losses`, for methods whose loss depends on more of the state than theta."""
        return self.class_losses(problem, theta, batch)

    def after(self, state: State, problem: Problem, iteration: int, theta: Tensor) -> None:
        """What else an iteration does once the images have moved, such as training the network."""

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:
        theta = self.network(state, problem, iteration)
        loss, gradient = torch.zeros((), device=problem.device), torch.zeros_like(state["images"])
        for batch in self.batches(state["images"], problem, iteration):
            losses = self.losses(state, problem, iteration, theta, batch).sum()
            loss = loss + losses.detach()
            (gradient[batch.rows],) = torch.autograd.grad(losses, batch.stored)
        found = problem.work.total({"loss": loss, "gradient": gradient})
        check_finite(self.name, iteration, found, lambda: state | {"network": theta})
        metrics = {"loss": float(found["loss"])}  # it is known by now; later it would wait for what is queued below
        self.update_images(state, found["gradient"])
        self.after(state, problem, iteration, theta)
        return metrics

    def batches(self, images: Tensor, problem: Problem, iteration: int) -> Iterator[ClassBatch]:
        """This process's classes in order, `class_batch` at a time.

        Everything is drawn before the first chunk, so the draws do not depend on the size of the chunks, nor on whose
        classes they are for.
        """
        c, count = self.config, problem.data.num_classes
        draws = problem.rng("matching", iteration)
        per_class = min(c.batch_real, max(map(len, problem.members)))
        rows = sample_per_class(problem.members, per_class, draws).view(count, -1)
        stages = [(stage, stage.sample_groups(draws, count)) for stage in self.augmentations(problem)]
        m, shown = problem.ipc * c.views, c.synthetic_per_class(problem.ipc)
        subsets = torch.stack([torch.randperm(m, generator=draws)[:shown] for _ in range(count)]) if shown < m else None
        for classes in torch.tensor(problem.work.mine(count)).split(c.class_batch or count):
            first, last = int(classes[0]), int(classes[-1]) + 1
            of_classes = slice(first * problem.ipc, last * problem.ipc)
            stored = images[of_classes].detach().requires_grad_()
            synthetic = self.expand(stored).unflatten(0, (len(classes), -1))
            if subsets is not None:
                synthetic = synthetic[torch.arange(len(classes))[:, None], subsets[first:last]]
            real = problem.inputs[rows[first:last].flatten()].unflatten(0, (len(classes), -1))
            for _, records in stages:
                real = apply_groups(real, records[first:last])
                synthetic = apply_groups(synthetic, records[first:last])
            yield ClassBatch(of_classes, stored, real, synthetic, classes.to(images.device))
