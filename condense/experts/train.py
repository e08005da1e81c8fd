"""Training one expert on real data, and handing out its parameters epoch by epoch.

Plain SGD as MTT trains its experts (arXiv 2203.11932), or GSAM as FTD does (Du et al., "Minimizing the Accumulated
Trajectory Error to Improve Dataset Distillation", 2022, arXiv 2211.11004; GSAM: Zhuang et al., 2022, arXiv 2203.08065).
Smooth ones as AST does (Shen, Yang and Lam, 2023, arXiv 2310.10541): a loss that starts small, and a gradient penalty.
Parameters are one flat vector throughout, so GSAM is six lines of vector arithmetic.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from torch import Tensor

from condense import rng
from condense.augment import DSA, composed, cutmix, in_turn
from condense.data.inputs import Inputs
from condense.errors import NumericsError
from condense.experts.curriculum import Curriculum
from condense.experts.penalty import penalty_gradient
from condense.networks import Network

EPSILON = 1e-12
Stream = Literal["expert", "difficulty", "teacher"]
DIVERGED: dict[Stream, tuple[str, str]] = {
    "expert": ("expert", "expert_lr"),
    "difficulty": ("network that scores the images", "expert_lr"),
    "teacher": ("teacher", "teacher_lr"),
}
"""What to call the networks of a stream, and the key of their learning rate."""


class ExpertPlan(BaseModel):
    """How an expert is trained. Two experts with the same plan, data, network, seed and index are the same bits.

    The learning rate is multiplied by `decay_factor` before each of the epochs `decay_epochs` (0 is the first). Each
    image gets one operator of `dsa`, or with `composed` several (`condense.augment.composed`); then, with probability
    `cutmix`, a batch is mixed (`condense.augment.cutmix`). With a `curriculum` an epoch sees a part of the images.

    The loss of epoch e is rho_e CE + `gradient_penalty` P. rho_e grows evenly from `clip_loss` in epoch 0 to 1 in epoch
    `clip_epochs`, and P is the penalty of `condense.experts.penalty` on the images before augmentation.

    What is None is off, and no part of the identity of a store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)
    batch: int = Field(ge=1)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    rho: float = Field(0.0, ge=0)
    alpha: float = Field(0.0, ge=0)
    adaptive: bool = True
    decay_epochs: Annotated[tuple[int, ...], PlainSerializer(list)] = ()
    decay_factor: float = Field(1.0, gt=0)
    dsa: str = "none"
    composed: bool = False
    cutmix: float = Field(0.0, ge=0, le=1)
    curriculum: Curriculum | None = None
    clip_loss: float | None = Field(None, gt=0, le=1)
    clip_epochs: int | None = Field(None, ge=1)
    gradient_penalty: float | None = Field(None, gt=0)

    def loss_factor(self, epoch: int) -> float:
        """rho_e, the factor on the cross-entropy in an epoch."""
        if self.clip_loss is None:
            return 1.0
        assert self.clip_epochs is not None, "clip_loss comes with clip_epochs"
        return self.clip_loss + (1 - self.clip_loss) * min(1.0, epoch / self.clip_epochs)

    def epochs_for(self, experts: int) -> int:
        """Epochs of training for so many experts, with those of the networks that score images for a curriculum."""
        scoring = self.curriculum.score_networks * self.curriculum.score_epochs if self.curriculum and experts else 0
        return experts * self.epochs + scoring

    def passes(self, experts: int) -> int:
        """Passes over the training set, forward and backward, in that training; an upper bound with a curriculum."""
        return self.epochs_for(experts) * (2 if self.rho else 1) * (4 if self.gradient_penalty else 1)


def sgd_step(
    theta: Tensor, gradient: Tensor, velocity: Tensor, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
) -> tuple[Tensor, Tensor]:
    """theta and velocity [P] after a step of heavy-ball SGD: v <- momentum v + g + weight_decay theta; theta - lr v."""
    if weight_decay:
        gradient = gradient + weight_decay * theta
    velocity = momentum * velocity + gradient
    return theta - lr * velocity, velocity


def gsam_direction(
    gradient: Callable[[Tensor], Tensor], theta: Tensor, rho: float, alpha: float, adaptive: bool
) -> Tensor:
    """The direction GSAM descends along at theta [P]; rho = 0 gives the plain gradient.

    g  = gradient(theta)
    e  = rho theta^2 g / (| |theta| g | + eps)       (adaptive)      or      rho g / (|g| + eps)
    g' = gradient(theta + e)
    v  = g - cos(g, g') |g| g' / |g'|                 the part of g that g' does not point along
    direction = g' - alpha v

    Norms and cosine are over all parameters together; products with theta are element by element.
    """
    g = gradient(theta)
    if rho == 0:
        return g
    ascent, norm = (theta.square() * g, (theta.abs() * g).norm()) if adaptive else (g, g.norm())
    perturbed = gradient(theta + ascent * (rho / (norm + EPSILON)))
    g_norm, perturbed_norm = g.norm(), perturbed.norm()
    cosine = (g @ perturbed) / (g_norm * perturbed_norm + EPSILON)
    vertical: Tensor = g - cosine * g_norm * perturbed / (perturbed_norm + EPSILON)
    return perturbed - alpha * vertical


def train_expert(
    network: Network,
    inputs: Inputs,
    labels: Tensor,
    plan: ExpertPlan,
    *,
    seed: int,
    index: int,
    stream: Stream = "expert",
    ranking: Sequence[Tensor] | None = None,
) -> Iterator[Tensor]:
    """Yield theta [P] at initialisation and after each epoch: epochs + 1 snapshots, each its own memory.

    One shuffled pass per epoch, the last partial batch kept; a plan with a curriculum needs the `ranking` that
    `rank_by_difficulty` makes. The augmented batch is drawn once per step, and both of GSAM's gradients see it. Every
    draw has an address, so expert `index` does not depend on the experts before it.
    Raises NumericsError after an epoch that ends with parameters that are not finite.
    """
    assert (ranking is None) == (plan.curriculum is None)
    everything = torch.arange(len(inputs))
    stages = composed(plan.dsa) if plan.composed else (DSA(plan.dsa),)
    theta = network.init(seed, f"{stream}.init", index)
    yield theta.clone()
    velocity = torch.zeros_like(theta)
    for epoch in range(plan.epochs):
        draws = rng.generator(seed, f"{stream}.{index}.epoch", epoch)
        chosen = everything if plan.curriculum is None else plan.curriculum.rows(epoch, ranking or ())
        order = chosen[torch.randperm(len(chosen), generator=draws)].to(theta.device)
        lr = plan.lr * plan.decay_factor ** sum(epoch >= decay for decay in plan.decay_epochs)
        factor = plan.loss_factor(epoch)
        for rows in order.split(plan.batch):
            plain = inputs[rows]
            x, y = in_turn(stages, plain, draws), labels[rows]
            if plan.cutmix:
                x, y = cutmix(x, y, network.classes, draws, plan.cutmix)

            def gradient(
                point: Tensor, x: Tensor = x, y: Tensor = y, plain: Tensor = plain, factor: float = factor
            ) -> Tensor:
                found, _ = network.gradient(point, x, y)
                if factor != 1:
                    found = factor * found
                if plan.gradient_penalty is not None:
                    found = found + plan.gradient_penalty * penalty_gradient(network, point, plain)
                return found

            direction = gsam_direction(gradient, theta, plan.rho, plan.alpha, plan.adaptive)
            theta, velocity = sgd_step(
                theta, direction, velocity, lr=lr, momentum=plan.momentum, weight_decay=plan.weight_decay
            )
        if not bool(theta.isfinite().all()):
            name, key = DIVERGED[stream]
            raise NumericsError(
                f"{name} {index}, epoch {epoch + 1}: parameters are not finite. Nothing of it is kept. "
                f"Lower {key}, which is {plan.lr}"
            )
        yield theta.clone()
