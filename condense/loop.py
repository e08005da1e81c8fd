"""The one distillation loop: step, log, checkpoint, stop."""

from collections.abc import Callable

from condense.costs import NOTHING, Cost, Meter
from condense.errors import LostRank
from condense.methods import Condenser, Metrics, Problem
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
    Stopped raised. Raises NumericsError for a loss or gradient that is not finite; the last checkpoint stands. Several
    `ranks` run it side by side; where one is gone, LostRank is raised once the state is saved.
    """
    found = folder.latest_checkpoint()
    meter, before = Meter(problem.device), NOTHING if found is None else found.cost
    if found is None:
        start, state = 0, condenser.init(problem)
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
                    ranks.agree(done, state)
                    save()
                if stopping:
                    stop.check()
        except LostRank:  # a step in which that happens has changed nothing yet
            save()
            raise
    return state, meter.read().after(before)
