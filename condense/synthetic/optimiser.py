"""The optimisers of the outer problem, on tensors that a checkpoint holds."""

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Every tensor of a condenser that changes, by name. A checkpoint is this and the iteration, nothing else."""


def sgd_(state: State, name: str, gradient: Tensor, *, lr: float, momentum: float) -> None:
    """One step of heavy-ball SGD on state[name], in place: v <- momentum v + gradient; p <- p - lr v.

    v lives in state[name + ".momentum"], zero at the start, so that the first step is plain gradient descent.
    """
    velocity = state[f"{name}.momentum"]
    velocity.mul_(momentum).add_(gradient)
    state[name].sub_(velocity, alpha=lr)


ADAM_EPSILON = 1e-8


def adam_moments(state: State, name: str) -> State:
    """What `adam_` keeps beside state[name], before the first step."""
    held = state[name]
    return {
        f"{name}.momentum": torch.zeros_like(held),
        f"{name}.square": torch.zeros_like(held),
        f"{name}.steps": torch.zeros((), dtype=torch.float64, device=held.device),
    }


def adam_(
    state: State,
    name: str,
    gradient: Tensor,
    *,
    lr: float,
    momentum: float,
    decay: float = 0.999,
    mask: Tensor | None = None,
) -> None:
    """One step of Adam on state[name], in place, without weight decay; k = 1, 2, ... counts the steps.

    v <- momentum v + (1 - momentum) gradient
    s <- decay s + (1 - decay) gradient^2
    p <- p - lr mask v / (1 - momentum^k) / (sqrt(s / (1 - decay^k)) + 1e-8)

    v, s and k live in state[name + ".momentum"], ".square" and ".steps" (0-dimensional, float64), see `adam_moments`.
    The mask is 1 where there is none. Kingma and Ba, ICLR 2015, arXiv 1412.6980, algorithm 1; momentum is its beta_1,
    decay its beta_2.
    """
    velocity, square, steps = (state[f"{name}.{part}"] for part in ("momentum", "square", "steps"))
    steps += 1
    velocity.mul_(momentum).add_(gradient, alpha=1 - momentum)
    square.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
    length = (square / (1 - decay**steps)).sqrt_().add_(ADAM_EPSILON)
    step = velocity / (1 - momentum**steps) / length
    state[name].sub_(step if mask is None else mask * step, alpha=lr)
