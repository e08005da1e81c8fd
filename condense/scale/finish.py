"""Having units done, by whatever executor, and going on with each as it is finished."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from condense.errors import UnitError
from condense.runs import StopFlag
from condense.scale.unit import Done, Executor, Failed, Progress, Unit

logger = logging.getLogger("condense")


def finish(
    units: Sequence[Unit],
    executor: Executor,
    stop: StopFlag,
    *,
    steps: int = 1,
    show: Callable[[int], None] = lambda done: None,  # noqa: ARG005 (nobody watches)
) -> Iterator[Unit]:
    """Each unit as it is finished, those first that an earlier command finished; the executor is open.

    `show` is told how many steps of all are done, of which each unit has `steps`. Raises UnitError at the end if some
    failed, Stopped as `Executor.run`.
    """
    done = {unit.name: steps if unit.finished else 0 for unit in units}
    left = [unit for unit in units if not unit.finished]
    yield from (unit for unit in units if unit.finished)
    failed: list[Failed] = []
    with closing(executor.run(left, executor.threads, stop)) as events:
        for event in events:
            if isinstance(event, Failed):
                failed.append(event)
                logger.warning("%s failed: %s", event.unit.name, event.words.splitlines()[-1])
                continue
            before = sum(done.values())
            done[event.unit.name] = event.steps if isinstance(event, Progress) else steps
            if sum(done.values()) not in (before, 0):
                show(sum(done.values()))
            if isinstance(event, Done):
                yield event.unit
    if failed:
        lines = [f"{one.unit.name}: {one.words.splitlines()[-1]}; all it said is in {one.unit.log}" for one in failed]
        raise UnitError("\n".join([f"{len(failed)} of {len(units)} failed, the others are kept", *lines]))
