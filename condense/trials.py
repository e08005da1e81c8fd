"""The networks of an evaluation, each in a process of its own."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from condense.artifact import Manifest, load_artifact
from condense.cache import cache_dir
from condense.comparison import Comparison, artifact_key, compare, evaluation_file, training_set
from condense.config import read_evaluation
from condense.errors import DataError
from condense.evaluation import Outcome, TrainingSet, Trial
from condense.files import write_atomic
from condense.locks import lock
from condense.provide import to_device
from condense.runs import StopFlag, progress, stop_signals
from condense.scale import RESULT, Executor, Shared, Unit, finish


class Apart:
    """What tries the networks of one evaluation by an executor, which is open. An `Attempt`.

    What is finished is kept in the cache until all are, under the hash of the evaluation, for a command that is stopped
    or killed.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        training: TrainingSet,
        comparison: Comparison,
        network: str,
        executor: Executor,
        stop: StopFlag,
    ) -> None:
        key = artifact_key(manifest)
        name = evaluation_file(key, comparison, comparison.protocol, network).stem
        self._folder = cache_dir() / "evaluations" / f"{name}-threads{executor.threads}"  # the bits depend on them
        self._arguments = {
            "artifact": str(path.absolute()),
            "key": key,
            "config": comparison.config.model_dump(mode="json"),
            "network": network,
        }
        cpu = torch.device("cpu")
        here = replace(comparison, data=comparison.data.to(cpu), preprocessing=comparison.preprocessing.to(cpu))
        self._shared = Shared(f"{name}-{network}", lambda: (training, here))
        self._network, self._executor, self._stop = network, executor, stop

    def __call__(self, trials: Sequence[Trial]) -> list[Outcome]:
        units = [self._unit(trial) for trial in trials]
        self._folder.mkdir(parents=True, exist_ok=True)
        with (
            lock(self._folder / "lock", wait=self._stop.check),
            progress(len(units), 0, f"networks {self._network}") as display,
        ):
            for _ in finish(units, self._executor, self._stop, show=lambda done: display.update(done - 1, {})):
                pass
            outcomes = [Outcome(**json.loads((unit.folder / RESULT).read_bytes())) for unit in units]
        shutil.rmtree(self._folder)
        return outcomes

    def _unit(self, trial: Trial) -> Unit:
        return Unit(
            name=f"{self._network}, network {trial.number} at lr {trial.lr:g}",
            folder=self._folder / f"{trial.stream}-{trial.number}-{trial.lr!r}",
            work=try_apart,
            arguments=self._arguments | {"trial": trial._asdict()},
            shared=self._shared,
        )


def try_apart(
    folder: Path,
    shared: tuple[TrainingSet, Comparison] | None,
    *,
    artifact: str,
    key: dict[str, Any],
    config: dict[str, Any],
    network: str,
    trial: dict[str, Any],
) -> Iterator[int]:
    """The work of a unit: train one network on the set in the folder `artifact`, and test it."""
    if shared is None:
        held = load_artifact(Path(artifact))
        if artifact_key(held.manifest) != key:
            raise DataError(f"{artifact} is another set than when the command began; start it again")
        shared = training_set(held), compare(artifact, held, read_evaluation(config, "eval"))
    training, comparison = shared
    device = comparison.config.torch_device
    comparison = replace(
        comparison, data=to_device(comparison.data, device), preprocessing=comparison.preprocessing.to(device)
    )
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock"), stop_signals() as stop:
        outcome = comparison.examiner(training, network, stop.check)(Trial(**trial))
        write_atomic(folder / RESULT, json.dumps(outcome._asdict()).encode())
    yield 1
