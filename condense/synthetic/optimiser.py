"""The optimisers of the outer problem, on tensors that a checkpoint holds."""

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


ADAM_DECAY = 0.999
ADAM_EPSILON = 1e-8


def adam_(state: State, name: str, gradient: Tensor, *, lr: float, momentum: float) -> None:
    """One step of Adam on state[name], in place, without weight decay; k = 1, 2, ... counts the steps.

    v <- momentum v + (1 - momentum) gradient
    s <- 0.999 s + 0.001 gradient^2
    p <- p - lr v / (1 - momentum^k) / (sqrt(s / (1 - 0.999^k)) + 1e-8)

    v, s and k live in state[name + ".momentum"], ".square" and ".steps" (0-dimensional, float64), zero at the start.
    Kingma and Ba, ICLR 2015, arXiv 1412.6980, algorithm 1; momentum is its beta_1.
    """
    velocity, square, steps = (state[f"{name}.{part}"] for part in ("momentum", "square", "steps"))
    steps += 1
    velocity.mul_(momentum).add_(gradient, alpha=1 - momentum)
    square.mul_(ADAM_DECAY).addcmul_(gradient, gradient, value=1 - ADAM_DECAY)
    length = (square / (1 - ADAM_DECAY**steps)).sqrt_().add_(ADAM_EPSILON)
    state[name].sub_(velocity / (1 - momentum**steps) / length, alpha=lr)
