"""The optimiser of the outer problem, on tensors that a checkpoint holds."""

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
