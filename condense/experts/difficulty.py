"""How hard the real images are, for a curriculum."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from condense.data.inputs import Inputs
from condense.data.preprocess import CHUNK
from condense.experts.train import ExpertPlan, train_expert
from condense.networks import Network
from condense.objectives import error_norm


def el2n(network: Network, inputs: Inputs, labels: Tensor, thetas: Sequence[Tensor]) -> Tensor:
    """EL2N scores [n]: the mean over networks of `error_norm`, images not augmented. High is hard."""
    scores = []
    with torch.no_grad():
        for rows in torch.arange(len(inputs)).split(CHUNK):
            x, y = inputs[rows], labels[rows]
            errors = [error_norm(network.logits(theta, x), y) for theta in thetas]
            scores.append(torch.stack(errors).mean(0))
    return torch.cat(scores)


def rank_by_difficulty(
    network: Network,
    inputs: Inputs,
    labels: Tensor,
    plan: ExpertPlan,
    *,
    seed: int,
    poll: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    """The row numbers of each class from easy to hard, on the CPU, for a plan with a curriculum.

    Scored by EL2N of networks that are trained as the experts are, early and on all images. `poll` is called after each
    of their epochs, and may raise to stop.
    """
    assert plan.curriculum is not None
    scoring = plan.model_copy(update={"curriculum": None, "epochs": plan.curriculum.score_epochs})
    thetas = []
    for index in range(plan.curriculum.score_networks):
        for theta in train_expert(network, inputs, labels, scoring, seed=seed, index=index, stream="difficulty"):
            last = theta
            poll()
        thetas.append(last)
    order, labels = el2n(network, inputs, labels, thetas).cpu().argsort(stable=True), labels.cpu()
    return [order[labels[order] == c] for c in range(network.classes)]
