"""The final table of a run: its own set, the baselines and the full data, all under one protocol."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from condense import provide
from condense.artifact import DATA, Artifact, add_evaluations, load_artifact, read_manifest
from condense.cache import cache_dir
from condense.config import Resolved, RunConfig
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


def evaluate_on_test(
    training: TrainingSet, problem: Problem, r: RunConfig, protocol: Protocol, stop: StopFlag
) -> Iterator[Evaluation]:
    """One evaluation for each of the run's networks, on the test set."""
    for network in r.networks:
        yield _evaluate(training, _test_set(problem), problem, r, protocol, network, r.eval_repeats, stop.check)


def evaluate_run(resolved: Resolved, problem: Problem, folder: RunFolder, stop: StopFlag) -> list[Evaluation]:
    """Evaluate the run's artifact, and record in its manifest what is not there yet."""
    r, path = resolved.run, folder.artifact_path
    key = {"method": r.method, "set": read_manifest(path).payload[DATA].sha256}
    done = _kept(key, lambda: training_set(load_artifact(path)), problem, r, load_protocol(r.protocol), stop)
    recorded = [record.model_dump() for record in read_manifest(path).evaluations]
    add_evaluations(path, [asdict(evaluation) for evaluation in done if asdict(evaluation) not in recorded])
    return done


def evaluate_baselines(resolved: Resolved, problem: Problem, stop: StopFlag) -> dict[str, list[Evaluation]]:
    """The run's baselines, with their default settings, and the full data: the same for every method."""
    r = resolved.run
    protocol = load_protocol(r.protocol)
    found: dict[str, list[Evaluation]] = {}
    for name in r.baselines:
        if name == r.method:
            continue
        config = METHODS[name].Config()
        baseline = replace(resolved, run=r.model_copy(update={"method": name}), method=config)

        def real_images(baseline: Resolved = baseline) -> TrainingSet:
            condenser = METHODS[baseline.run.method](baseline.method)
            state = condenser.init(provide.provide(baseline, problem, stop))
            return training_set(condenser.distilled(state))

        key = {
            "method": name,
            "ipc": r.ipc,
            "condenser_network": problem.network.name,
            **config.model_dump(mode="json"),
        }
        found[name] = _kept(key, real_images, problem, r, protocol, stop)
    if r.full_data:

        def everything() -> TrainingSet:
            train = problem.data.train
            return TrainingSet(train.images, train.labels, preprocess=problem.preprocessing)

        found[FULL_DATA] = _kept({"method": FULL_DATA}, everything, problem, r, protocol.on_full_data(), stop)
    return found


def validation_observer(resolved: Resolved, condenser: Condenser, problem: Problem) -> Callable[[State, int], Metrics]:
    """Validation accuracy of one fresh network every `eval_every` iterations, for the log."""
    r, protocol = resolved.run, load_protocol(resolved.run.protocol)
    held_out = problem.data.validation
    validation = TestSet(held_out.images, held_out.labels, preprocess=problem.preprocessing)

    def observe(state: State, iteration: int) -> Metrics:
        if (iteration + 1) % r.eval_every:
            return {}
        training = training_set(condenser.distilled(state))
        return {"validation_accuracy": _evaluate(training, validation, problem, r, protocol, r.network, 1).mean}

    return observe


def _test_set(problem: Problem) -> TestSet:
    return TestSet(problem.data.test.images, problem.data.test.labels, preprocess=problem.preprocessing)


def _evaluate(
    training: TrainingSet,
    test: TestSet,
    problem: Problem,
    r: RunConfig,
    protocol: Protocol,
    network: str,
    n: int | None,
    poll: Callable[[], None] = lambda: None,
) -> Evaluation:
    return evaluate(
        training,
        test,
        network,
        classes=problem.data.num_classes,
        protocol=protocol,
        dsa=r.dsa,
        seed=r.seed,
        device=problem.device,
        n=n,
        poll=poll,
    )


def _kept(
    what: dict[str, Any],
    make: Callable[[], TrainingSet],
    problem: Problem,
    r: RunConfig,
    protocol: Protocol,
    stop: StopFlag,
) -> list[Evaluation]:
    """The evaluations of the set that `make` builds, each from the cache if this very comparison was made before."""
    training: TrainingSet | None = None
    found = []
    for network in r.networks:
        identity = what | {
            "data": problem.data.sha256,
            "validation": r.validation,
            "preprocessing": problem.preprocessing.kind,
            "network": provide.build_network(network, problem.data).name,
            "protocol": asdict(protocol),
            "n": r.eval_repeats,
            "dsa": r.dsa,
            "seed": r.seed,
            "device": problem.device.type,
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
            test = _test_set(problem)
            found.append(_evaluate(training, test, problem, r, protocol, network, r.eval_repeats, stop.check))
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(asdict(found[-1])).encode())
    return found
