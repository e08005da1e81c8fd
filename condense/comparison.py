"""The final table of a run: its own set, the baselines and the full data, all under one protocol."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from condense import provide
from condense.artifact import DATA, STORE, Artifact, Manifest, add_new_evaluations, load_artifact, read_manifest
from condense.cache import cache_dir
from condense.config import EvaluationConfig, Resolved
from condense.data import Preprocessing, RealData
from condense.errors import DataError
from condense.evaluation import (
    Attempt,
    Evaluation,
    Examiner,
    NetworkLike,
    Protocol,
    TestSet,
    TrainingSet,
    evaluate,
    load_protocol,
)
from condense.files import make_folder, write_atomic
from condense.methods import METHODS, Condenser, DecoupledConfig, Metrics, Problem, TeacherConfig, unwatched
from condense.networks import COMPILED_NUMERICS, has_compiler
from condense.runs import RunFolder, StopFlag
from condense.synthetic import DistilledSet, State

logger = logging.getLogger("condense")

FULL_DATA = "full data"
_FULL_DATA = {"method": FULL_DATA}
_EVALUATION = TypeAdapter(Evaluation)


def training_set(made: DistilledSet | Artifact) -> TrainingSet:
    """A distilled set as the evaluator takes it."""
    if isinstance(made, DistilledSet):
        made = made.decoded()
    return TrainingSet(made.images, made.labels, lr=made.lr, store=made.store)


@dataclass(frozen=True)
class Comparison:
    """What all sets of one comparison share: the real data, on the device, how they reach a network, and the keys."""

    data: RealData
    preprocessing: Preprocessing
    config: EvaluationConfig

    @property
    def protocol(self) -> Protocol:
        return load_protocol(self.config.protocol)

    def protocol_for(self, name: str) -> Protocol:
        """As the training set `name` is trained on: the full data for another number of epochs."""
        return self.protocol.on_full_data() if name == FULL_DATA else self.protocol

    @property
    def test(self) -> TestSet:
        return TestSet(self.data.test.images, self.data.test.labels, preprocess=self.preprocessing)

    @property
    def validation(self) -> TestSet:
        return TestSet(self.data.validation.images, self.data.validation.labels, preprocess=self.preprocessing)

    @property
    def everything(self) -> TrainingSet:
        """The whole real training set."""
        return TrainingSet(self.data.train.images, self.data.train.labels, preprocess=self.preprocessing)

    def evaluate(
        self,
        training: TrainingSet,
        test: TestSet,
        network: NetworkLike,
        *,
        protocol: Protocol | None = None,
        n: int | None = None,
        updates: int | None = None,
        poll: Callable[[], None] = lambda: None,
        attempt: Attempt | None = None,
    ) -> Evaluation:
        """`n` fresh networks, as many as the keys or else the protocol say if it is not given; likewise `updates`."""
        return evaluate(
            training,
            test,
            network,
            n=n or self.config.eval_repeats,
            attempt=attempt,
            **self._settings(protocol, updates, poll),
        )

    def examiner(self, training: TrainingSet, network: NetworkLike, poll: Callable[[], None]) -> Examiner:
        """What trains and tests single networks of an evaluation on the test set."""
        return Examiner(training, self.test, network, **self._settings(None, None, poll))

    def _settings(self, protocol: Protocol | None, updates: int | None, poll: Callable[[], None]) -> dict[str, Any]:
        return {
            "classes": self.data.num_classes,
            "protocol": protocol or self.protocol,
            "dsa": self.config.dsa,
            "seed": self.config.seed,
            "device": self.config.torch_device,
            "validation": self.validation,
            "updates": updates,
            "poll": poll,
        }


def compare(source: Path | str | Artifact, artifact: Artifact, config: EvaluationConfig) -> Comparison:
    """What to compare the distilled set from `source` with. Raises DataError for data that it was not made from."""
    data = provide.load_data(config)
    if data.sha256 != artifact.manifest.dataset.sha256:
        held, found = artifact.manifest.dataset.sha256[:12], data.sha256[:12]
        raise DataError(
            f"{'the set' if source is artifact else source} was made from another {data.name}: its data have SHA-256 "
            f"{held}..., these have {found}.... Name the original with --data-root or --dataset"
        )
    device = config.torch_device
    return Comparison(provide.to_device(data, device), artifact.preprocessing.to(device), config)


def evaluate_run(resolved: Resolved, problem: Problem, folder: RunFolder, stop: StopFlag) -> list[Evaluation]:
    """Evaluate the run's artifact, and record in its manifest what is not there yet."""
    path, comparison = folder.artifact_path, Comparison(problem.data, problem.preprocessing, resolved.run)
    key, make = artifact_key(read_manifest(path)), cache(lambda: training_set(load_artifact(path)))
    done = [kept(key, make, comparison, comparison.protocol, network, stop) for network in resolved.run.networks]
    record_new(path, done)
    return done


def artifact_key(manifest: Manifest) -> dict[str, Any]:
    """What a distilled set is, for the cache."""
    key: dict[str, Any] = {"method": manifest.method.name, "set": manifest.payload[DATA].sha256}
    if manifest.lr is not None:
        key["lr"] = manifest.lr
    if manifest.images.factor > 1:
        key["factor"] = manifest.images.factor
    if manifest.store is None:
        return key
    return key | {"store": manifest.store.model_dump(mode="json") | {"sha256": manifest.payload[STORE].sha256}}


def record_new(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Add those of the evaluations to the artifact's manifest that are not there yet."""
    add_new_evaluations(path, [_EVALUATION.dump_python(evaluation, mode="json") for evaluation in evaluations])


def evaluate_baselines(resolved: Resolved, problem: Problem, stop: StopFlag) -> dict[str, list[Evaluation]]:
    """The run's baselines, configured as `baseline` says, and the full data: the same for every method."""
    r, comparison = resolved.run, Comparison(problem.data, problem.preprocessing, resolved.run)
    found: dict[str, list[Evaluation]] = {}
    for name in r.baselines:
        if name != r.method:
            key, make = real_images(name, resolved, problem, stop)
            protocol = comparison.protocol
            found[name] = [kept(key, make, comparison, protocol, network, stop) for network in r.networks]
    if r.full_data:
        found[FULL_DATA] = [evaluate_full_data(comparison, network, stop) for network in r.networks]
    return found


def missing_baselines(resolved: Resolved, problem: Problem) -> dict[str, list[str]]:
    """The networks on which each baseline, and the full data, are still to be evaluated; none is left out."""
    r, comparison = resolved.run, Comparison(problem.data, problem.preprocessing, resolved.run)
    sets = {name: real_images(name, resolved, problem, StopFlag())[0] for name in r.baselines if name != r.method}
    if r.full_data:
        sets[FULL_DATA] = _FULL_DATA
    missing = {}
    for name, what in sets.items():
        protocol = comparison.protocol_for(name)
        files = {network: evaluation_file(what, comparison, protocol, network) for network in r.networks}
        missing[name] = [network for network, file in files.items() if not file.exists()]
    return missing


def evaluate_full_data(comparison: Comparison, network: str, stop: StopFlag) -> Evaluation:
    """The whole real training set, for as long as the protocol trains on that."""
    protocol = comparison.protocol_for(FULL_DATA)
    return kept(_FULL_DATA, lambda: comparison.everything, comparison, protocol, network, stop)


def baseline(name: str, resolved: Resolved) -> Resolved:
    """The baseline `name` beside a run, by default settings; beside a decoupled one with its teachers and labels."""
    own, method, values = METHODS[name].Config, resolved.method, {}
    if isinstance(method, DecoupledConfig) and issubclass(own, DecoupledConfig):
        values = {key: getattr(method, key) for key in DecoupledConfig.model_fields if key != "iterations"}
    return Resolved(resolved.run.model_copy(update={"method": name}), own(**values), {})


def real_images(
    name: str, like: Resolved, problem: Problem, stop: StopFlag
) -> tuple[dict[str, Any], Callable[[], TrainingSet]]:
    """What the baseline `name` beside the run `like` is, for the cache, and what makes its set, once."""
    resolved = baseline(name, like)
    config = resolved.method

    @cache
    def make() -> TrainingSet:
        condenser = METHODS[name](config)
        provided, _ = provide.provide(resolved, problem, stop)
        return training_set(condenser.distilled(condenser.init(provided), provided))

    key = {"method": name, "ipc": problem.ipc, "condenser_network": problem.network.name}
    if isinstance(config, TeacherConfig):
        key["teacher"] = provide.teacher_file(resolved, problem).stem  # its bits depend on more than the above
    if isinstance(config, DecoupledConfig):
        plans = provide.pool_plans(resolved, problem.data)
        key["pool"] = [provide.pool_file(resolved, problem, plan, index).stem for plan, index in plans]
    return key | config.model_dump(mode="json"), make


def validation_observer(resolved: Resolved, condenser: Condenser, problem: Problem) -> Callable[[State, int], Metrics]:
    """Validation accuracy of one fresh network every `eval_every` iterations, for the log; of a problem as provided."""
    r, comparison = resolved.run, Comparison(problem.data, problem.preprocessing, resolved.run)
    problem = replace(problem, watch=unwatched)  # the loop shows how far it is, and stops between two iterations

    def observe(state: State, iteration: int) -> Metrics:
        if (iteration + 1) % r.eval_every:
            return {}
        training = training_set(condenser.distilled(state, problem))
        return {"validation_accuracy": comparison.evaluate(training, comparison.validation, r.network, n=1).mean}

    return observe


def kept(
    what: dict[str, Any],
    make: Callable[[], TrainingSet],
    comparison: Comparison,
    protocol: Protocol,
    network: str,
    stop: StopFlag,
) -> Evaluation:
    """The evaluation of the set that `make` builds, from the cache if this very comparison was made before."""
    file = evaluation_file(what, comparison, protocol, network)
    try:
        return _EVALUATION.validate_json(file.read_bytes())
    except (OSError, ValueError):  # not there, or damaged
        other = "" if protocol.augmentation == comparison.protocol.augmentation else f" with {protocol.augmentation}"
        logger.info("evaluating %s on %s: protocol %s%s", what["method"], network, protocol.name, other)
        made = comparison.evaluate(make(), comparison.test, network, protocol=protocol, poll=stop.check)
        make_folder(file.parent)
        write_atomic(file, _EVALUATION.dump_json(made))
        return made


def evaluation_file(what: dict[str, Any], comparison: Comparison, protocol: Protocol, network: str) -> Path:
    """Where the cache has this very comparison, or will have it: under the hash of all that decides it."""
    keys, preprocessing = comparison.config, comparison.preprocessing
    identity = what | {
        "data": comparison.data.sha256,
        "validation": keys.validation,
        "preprocessing": f"{preprocessing.kind} {preprocessing.sha256}",
        "network": provide.build_network(network, comparison.data).name,
        "protocol": protocol.identity(),
        "n": keys.eval_repeats,
        "dsa": keys.dsa,
        "seed": keys.seed,
        "device": keys.torch_device.type,
        "torch": torch.__version__,
        "numerics": provide.NUMERICS,
        **({"compiled": COMPILED_NUMERICS} if has_compiler() else {}),  # whether it is depends on all the above
    }
    return cache_dir() / "evaluations" / f"{provide.digest(identity)[:32]}.json"
