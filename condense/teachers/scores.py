"""How hard the real images are for networks that learn them as a teacher does, early in their training."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from condense.data.inputs import Inputs
from condense.errors import ConfigError
from condense.objectives import error_norm, forgetting_events, gradient_norm
from condense.teachers.activation import classifier, last_runs
from condense.teachers.pool import AT_ONCE
from condense.teachers.train import SqueezePlan, squeeze

Score = Literal["forgetting", "el2n", "grand"]


def hardness(
    score: Score,
    plan: SqueezePlan,
    inputs: Inputs,
    labels: Tensor,
    *,
    classes: int,
    seed: int,
    networks: int,
    epochs: int,
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """The mean [n] of a score over networks 0, 1, ... of `squeeze`, each left after `epochs` <= plan.epochs.

    High is hard. "el2n" and "grand" are `error_norm` and `gradient_norm` of images that are not augmented, by running
    statistics. "forgetting" are `forgetting_events` among the predictions of training itself: of augmented images, by
    the statistics of their batch, before it changes the network. A network that is never right about an image counts
    for `epochs`, which no other count reaches, as in the released code of Toneva et al. `poll` is called after each
    epoch of each network, and may raise to stop.

    Raises:
        ConfigError: "grand", and a network that does not end in a Linear layer.
        NumericsError: as `squeeze`.
    """
    assert epochs <= plan.epochs
    scores = []
    for index in range(networks):
        module, correct = _trained(
            plan, inputs, labels, classes=classes, seed=seed, index=index, epochs=epochs, poll=poll
        )
        match score:
            case "forgetting":
                scores.append(forgetting_events(correct).clamp(max=epochs))
            case "el2n":
                scores.append(_el2n(module, inputs, labels))
            case "grand":
                scores.append(_grand(plan.network, module, inputs, labels))
    return torch.stack(scores).mean(0)


def _trained(
    plan: SqueezePlan,
    inputs: Inputs,
    labels: Tensor,
    *,
    classes: int,
    seed: int,
    index: int,
    epochs: int,
    poll: Callable[[], None],
) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode, and bool [epochs, n]: whether it was right when each image was last presented."""
    last, correct = torch.zeros_like(labels, dtype=torch.bool), []

    def watch(rows: Tensor, logits: Tensor) -> None:
        last[rows] = logits.argmax(1) == labels[rows]

    training = squeeze(plan, inputs, labels, classes=classes, seed=seed, index=index, watch=watch)
    for _ in range(epochs):
        module = next(training)
        correct.append(last.clone())
        poll()
    return module.eval(), torch.stack(correct)


def _el2n(module: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    with torch.no_grad():
        parts = torch.arange(len(inputs), device=labels.device).split(AT_ONCE)
        return torch.cat([error_norm(module(inputs[part]), labels[part]) for part in parts])


def _grand(name: str, module: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    parts = torch.arange(len(inputs), device=labels.device).split(AT_ONCE)
    linear = last_linear(name, module, inputs[parts[0][:2]])
    scores = []
    for part in parts:
        (features, *_), logits = last_runs([linear], module, inputs[part])[linear]
        scores.append(gradient_norm(logits, features, labels[part]))
    return torch.cat(scores)


def last_linear(name: str, module: nn.Module, x: Tensor) -> nn.Linear:
    """The Linear layer that puts out the logits of images x, by which "grand" takes gradients.

    `name` is the module's in messages.

    Raises:
        ConfigError: there is none.
    """
    linear = classifier(module, last_runs(module.modules(), module, x))
    if linear is None:
        raise ConfigError(
            f"network {name!r} has no last-layer gradients: it does not end in a Linear layer. Choose another first "
            "teacher, or score el2n or forgetting"
        )
    return linear
