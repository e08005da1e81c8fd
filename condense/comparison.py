"""The final table of a run: its own set, the baselines and the full data, all under one protocol."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from condense import provide
from condense.artifact import DATA, Artifact, add_evaluations, load_artifact, read_manifest
from condense.cache import cache_dir
from condense.config import EvaluationConfig, Resolved
from condense.data import Preprocessing, RealData
from condense.evaluation import Evaluation, Protocol, TestSet, TrainingSet, evaluate, load_protocol
from condense.files import write_atomic
from condense.methods import METHODS, Condenser, Metrics, Problem
from condense.runs import RunFolder, StopFlag
from condense.synthetic import DistilledSet, State

logger = logging.getLogger("condense")

FULL_DATA = "full data"


def training_set(made: DistilledSet | Artifact) -> TrainingSet:
    """A distilled set as the evaluator takes it."""
    if isinstance(made, DistilledSet):
        made = made.decoded()
    return TrainingSet(made.images, made.labels, lr=made.lr)


@dataclass(frozen=True)
class Comparison:
    """What all sets of one comparison share: the real data, on the device, how they reach a network, and the keys."""

    data: RealData
    preprocessing: Preprocessing
    config: EvaluationConfig

    @property
    def protocol(self) -> Protocol:
        return load_protocol(self.config.protocol)

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
        network: str,
        *,
        protocol: Protocol | None = None,
        n: int | None = None,
        poll: Callable[[], None] = lambda: None,
    ) -> Evaluation:
        """`n` fresh networks, as many as the keys or else the protocol say if it is not given."""
        return evaluate(
            training,
            test,
            network,
            classes=self.data.num_classes,
            protocol=protocol or self.protocol,
            dsa=self.config.dsa,
            seed=self.config.seed,
            device=self.config.torch_device,
            n=n or self.config.eval_repeats,
            poll=poll,
        )


def evaluate_on_test(training: TrainingSet, comparison: Comparison, stop: StopFlag) -> Iterator[Evaluation]:
    """One evaluation for each network of the comparison, on the test set."""
    for network in comparison.config.networks:
        yield comparison.evaluate(training, comparison.test, network, poll=stop.check)


def evaluate_run(resolved: Resolved, problem: Problem, folder: RunFolder, stop: StopFlag) -> list[Evaluation]:
    """Evaluate the run's artifact, and record in its manifest what is not there yet."""
    path, comparison = folder.artifact_path, Comparison(problem.data, problem.preprocessing, resolved.run)
    key = {"method": resolved.run.method, "set": read_manifest(path).payload[DATA].sha256}
    done = _kept(key, lambda: training_set(load_artifact(path)), comparison, comparison.protocol, stop)
    recorded = [record.model_dump() for record in read_manifest(path).evaluations]
    add_evaluations(path, [asdict(evaluation) for evaluation in done if asdict(evaluation) not in recorded])
    return done


def evaluate_baselines(resolved: Resolved, problem: Problem, stop: StopFlag) -> dict[str, list[Evaluation]]:
    """The run's baselines, with their default settings, and the full data: the same for every method."""
    r, comparison = resolved.run, Comparison(problem.data, problem.preprocessing, resolved.run)
    found: dict[str, list[Evaluation]] = {}
    for name in r.baselines:
        if name == r.method:
            continue
        config = METHODS[name].Config()
        baseline = replace(resolved, run=r.model_copy(update={"method": name}), method=config)

        def real_images(baseline: Resolved = baseline) -> TrainingSet:
            condenser = METHODS[baseline.run.method](baseline.method)
            provided, _ = provide.provide(baseline, problem, stop)
            state = condenser.init(provided)
            return training_set(condenser.distilled(state))

        key = {
            "method": name,
            "ipc": r.ipc,
            "condenser_network": problem.network.name,
            **config.model_dump(mode="json"),
        }
        found[name] = _kept(key, real_images, comparison, comparison.protocol, stop)
    if r.full_data:
        protocol = comparison.protocol.on_full_data()
        found[FULL_DATA] = _kept({"method": FULL_DATA}, lambda: comparison.everything, comparison, protocol, stop)
    return found


def validation_observer(resolved: Resolved, condenser: Condenser, problem: Problem) -> Callable[[State, int], Metrics]:
    """Validation accuracy of one fresh network every `eval_every` iterations, for the log."""
    r, comparison = resolved.run, Comparison(problem.data, problem.preprocessing, resolved.run)

    def observe(state: State, iteration: int) -> Metrics:
        if (iteration + 1) % r.eval_every:
            return {}
        training = training_set(condenser.distilled(state))
        return {"validation_accuracy": comparison.evaluate(training, comparison.validation, r.network, n=1).mean}

    return observe


def _kept(
    what: dict[str, Any],
    make: Callable[[], TrainingSet],
    comparison: Comparison,
    protocol: Protocol,
    stop: StopFlag,
) -> list[Evaluation]:
    """The evaluations of the set that `make` builds, each from the cache if this very comparison was made before."""
    keys, training = comparison.config, None
    found = []
    for network in keys.networks:
        identity = what | {
            "data": comparison.data.sha256,
            "validation": keys.validation,
            "preprocessing": comparison.preprocessing.kind,
            "network": provide.build_network(network, comparison.data).name,
            "protocol": asdict(protocol),
            "n": keys.eval_repeats,
            "dsa": keys.dsa,
            "seed": keys.seed,
            "device": keys.torch_device.type,
            "torch": torch.__version__,
            "numerics": provide.NUMERICS,
        }
        file = cache_dir() / "evaluations" / f"{provide.digest(identity)[:32]}.json"
        try:
            record = json.loads(file.read_bytes())
            found.append(Evaluation(**record | {"values": tuple(record["values"])}))
        except (OSError, ValueError, TypeError, KeyError):  # not there, or damaged
            logger.info("evaluating %s on %s: protocol %s", what["method"], network, protocol.name)
            if training is None:
                training = make()
            found.append(comparison.evaluate(training, comparison.test, network, protocol=protocol, poll=stop.check))
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(asdict(found[-1])).encode())
    return found
