"""The one distillation loop: step, log, checkpoint, stop."""

from collections.abc import Callable, Mapping

from torch import Tensor

from condense.costs import NOTHING, Cost, Meter
from condense.errors import LostRank, NumericsError
from condense.methods import Condenser, Metrics, Problem, not_finite
from condense.runs import RunFolder, StopFlag, Trackers, progress
from condense.scale.ranks import LONE, Lone
from condense.synthetic import State

Observer = Callable[[State, int], Metrics]
"""Extra metrics of the state after an iteration, such as a validation accuracy; it changes nothing."""


def distillation_loop(
    condenser: Condenser,
    problem: Problem,
    folder: RunFolder,
    *,
    iterations: int,
    checkpoint_every: int,
    trackers: Trackers,
    stop: StopFlag,
    observer: Observer | None = None,
    ranks: Lone = LONE,
) -> tuple[State, Cost | None]:
    """Run the condenser to its last iteration, from the folder's newest checkpoint if there is one.

    Returns the last state, and what all of it took: what an interruption made to be done twice counts once. The cost
    is None where the checkpoint does not know it.

    Every draw has an address, so the state after iteration i does not depend on where the run was interrupted, how
    often it is logged, evaluated or saved. A stop signal is obeyed between two iterations: the state is saved and
    Stopped raised. Raises NumericsError for a loss or gradient that is not finite, and for a teacher or a state that is
    not: such a state is never saved, and the last checkpoint stands. Several `ranks` run it side by side; where one is
    gone, LostRank is raised once the state is saved.
    """
    refuse(condenser.name, "before iteration 0", problem.trained)
    found = folder.latest_checkpoint()
    meter, before = Meter(problem.device), NOTHING if found is None else found.cost
    if found is None:
        start, state = 0, condenser.init(problem)
        refuse(condenser.name, "before iteration 0", state)
    else:
        start, state = found.iteration, {name: tensor.to(problem.device) for name, tensor in found.state.items()}
    ranks.agree(start, state)
    stop, done = ranks.heed(stop), start
    with folder.metrics(start) as log, progress(iterations, start, condenser.name) as display:

        def save() -> None:
            log.sync()
            folder.save_checkpoint(done, state, meter.read().after(before))

        try:
            for iteration in range(start, iterations):
                metrics = condenser.step(state, problem, iteration)
                if observer is not None:
                    metrics = metrics | observer(state, iteration)
                log.log(iteration, metrics)
                trackers.log(iteration, metrics)
                display.update(iteration, metrics)
                done, stopping = iteration + 1, stop.requested is not None  # read once: one that comes now waits
                if done == iterations or done % checkpoint_every == 0 or stopping:
                    refuse(condenser.name, f"after iteration {iteration}", state)
                    ranks.agree(done, state)
                    save()
                if stopping:
                    stop.check()
        except LostRank:  # a step in which that happens has changed nothing yet
            save()
            raise
    return state, meter.read().after(before)


def refuse(method: str, when: str, tensors: Mapping[str, Tensor | None]) -> None:
    """Raise NumericsError naming method, iteration and tensors if any value is NaN or infinite."""
    if bad := not_finite(tensors):
        raise NumericsError(
            f"{method}, {when}: {' and '.join(bad)} not finite. This is not saved, and the last checkpoint stands. "
            f"Start a new run with lower learning rates (`condense ls keys {method}`); a damaged teacher in the cache "
            "is to be deleted"
        )
