"""Training one expert on real data, and handing out its parameters epoch by epoch.

Plain SGD as MTT trains its experts (arXiv 2203.11932), or GSAM as FTD does (Du et al., "Minimizing the Accumulated
Trajectory Error to Improve Dataset Distillation", 2022, arXiv 2211.11004; GSAM: Zhuang et al., 2022, arXiv 2203.08065).
Parameters are one flat vector throughout, so GSAM is six lines of vector arithmetic.
"""

from collections.abc import Callable, Iterator

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from condense import rng
from condense.augment import DSA
from condense.data.inputs import Inputs
from condense.errors import NumericsError
from condense.networks import Network

EPSILON = 1e-12


class ExpertPlan(BaseModel):
    """How an expert is trained. Two experts with the same plan, data, network, seed and index are the same bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)
    batch: int = Field(ge=1)
    momentum: float = Field(0.0, ge=0, lt=1)
    rho: float = Field(0.0, ge=0)
    alpha: float = Field(0.0, ge=0)
    adaptive: bool = True
    dsa: str = "none"


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
    network: Network, inputs: Inputs, labels: Tensor, plan: ExpertPlan, *, seed: int, index: int, stream: str = "expert"
) -> Iterator[Tensor]:
    """Yield theta [P] at initialisation and after each epoch: epochs + 1 snapshots, each its own memory.

    One shuffled pass per epoch, the last partial batch kept. The augmented batch is drawn once per step, and both of
    GSAM's gradients see it. Every draw has an address, so expert `index` does not depend on the experts before it.
    Raises NumericsError after an epoch that ends with parameters that are not finite.
    """
    augmentation = DSA(plan.dsa)
    theta = network.init(seed, f"{stream}.init", index)
    yield theta.clone()
    velocity: Tensor | None = None
    for epoch in range(plan.epochs):
        draws = rng.generator(seed, f"{stream}.{index}.epoch", epoch)
        order = torch.randperm(len(inputs), generator=draws).to(theta.device)
        for rows in order.split(plan.batch):
            x, y = augmentation.augment(inputs[rows], draws), labels[rows]

            def gradient(point: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
                point = point.detach().requires_grad_()
                return torch.autograd.grad(F.cross_entropy(network.logits(point, x), y), point)[0]

            direction = gsam_direction(gradient, theta, plan.rho, plan.alpha, plan.adaptive)
            if plan.momentum:
                velocity = direction if velocity is None else plan.momentum * velocity + direction
                direction = velocity
            theta = theta - plan.lr * direction
        if not bool(theta.isfinite().all()):
            raise NumericsError(
                f"{stream} {index}, epoch {epoch + 1}: parameters are not finite. Nothing of it is kept. "
                f"Lower its learning rate, which is {plan.lr}"
            )
        yield theta.clone()
