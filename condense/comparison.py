"""The final table of a run: its own set, the baselines and the full data, all under one protocol."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from condense import provide
from condense.artifact import Artifact, add_evaluations, load_artifact, read_manifest
from condense.cache import cache_dir
from condense.config import Layer, Resolved, RunConfig, resolve
from condense.evaluation import Evaluation, Protocol, TestSet, TrainingSet, evaluate, load_protocol
from condense.files import write_atomic
from condense.methods import METHODS, Condenser, Metrics, Problem
from condense.runs import RunFolder, StopFlag
from condense.synthetic import DistilledSet, State

logger = logging.getLogger("condense")

FULL_DATA = "full data"


def training_set(made: DistilledSet | Artifact) -> TrainingSet:
    """A distilled set as the evaluator takes it."""
    return TrainingSet(made.images, made.labels, lr=made.lr)


def evaluate_on_test(
    training: TrainingSet, problem: Problem, r: RunConfig, protocol: Protocol, stop: StopFlag
) -> Iterator[Evaluation]:
    """One evaluation for each of the run's networks, on the test set."""
    test = TestSet(problem.data.test.images, problem.data.test.labels, preprocess=problem.preprocessing)
    for network in r.networks:
        stop.check()
        yield _evaluate(training, test, problem, r, protocol, network, r.eval_repeats)


def evaluate_run(resolved: Resolved, problem: Problem, folder: RunFolder, stop: StopFlag) -> list[Evaluation]:
    """Evaluate the run's artifact and record it in the manifest, unless it is recorded already."""
    r, protocol = resolved.run, load_protocol(resolved.run.protocol)
    recorded = [Evaluation(**record.model_dump()) for record in read_manifest(folder.artifact_path).evaluations]
    wanted = [
        (provide.build_network(name, problem.data).name, r.eval_repeats or protocol.networks) for name in r.networks
    ]
    found = {(e.network, e.n): e for e in recorded if (e.protocol, e.seed) == (protocol.name, r.seed)}
    if all(key in found for key in wanted):
        return [found[key] for key in wanted]
    logger.info("evaluating %s: protocol %s", r.method, protocol.name)
    done = list(evaluate_on_test(training_set(load_artifact(folder.artifact_path)), problem, r, protocol, stop))
    add_evaluations(folder.artifact_path, [asdict(evaluation) for evaluation in done])
    return done


def evaluate_baselines(resolved: Resolved, problem: Problem, stop: StopFlag) -> dict[str, list[Evaluation]]:
    """The run's baselines and the full data. They depend on no condenser, so they are kept in the cache."""
    r = resolved.run
    protocol = load_protocol(r.protocol)
    found: dict[str, list[Evaluation]] = {}
    for name in r.baselines:
        if name == r.method:
            continue
        shared = {key: value for key, value in r if resolved.origins[key] != "default"}
        baseline = resolve([Layer(f"run of {r.method}", shared | {"method": name})])

        def real_images(baseline: Resolved = baseline) -> TrainingSet:
            condenser = METHODS[baseline.run.method](baseline.method)
            state = condenser.init(provide.provide(baseline, problem, stop))
            return training_set(condenser.distilled(state))

        key = {"method": name, "ipc": r.ipc, **baseline.method.model_dump(mode="json")}
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


def _evaluate(
    training: TrainingSet,
    test: TestSet,
    problem: Problem,
    r: RunConfig,
    protocol: Protocol,
    network: str,
    n: int | None,
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
    )


def _kept(
    what: dict[str, Any],
    make: Callable[[], TrainingSet],
    problem: Problem,
    r: RunConfig,
    protocol: Protocol,
    stop: StopFlag,
) -> list[Evaluation]:
    """The evaluations of a set that `make` builds, from the cache if this very comparison was made before."""
    identity = what | {
        "data": problem.data.sha256,
        "validation": r.validation,
        "preprocessing": problem.preprocessing.kind,
        "condenser_network": problem.network.name,
        "networks": r.networks,
        "protocol": asdict(protocol),
        "n": r.eval_repeats,
        "dsa": r.dsa,
        "seed": r.seed,
        "device": problem.device.type,
        "numerics": provide.NUMERICS,
    }
    file = cache_dir() / "evaluations" / f"{provide.digest(identity)[:32]}.json"
    try:
        return [Evaluation(**record | {"values": tuple(record["values"])}) for record in json.loads(file.read_bytes())]
    except (OSError, ValueError, TypeError, KeyError):  # not there, or damaged
        logger.info("evaluating %s: protocol %s", what["method"], protocol.name)
        done = list(evaluate_on_test(make(), problem, r, protocol, stop))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps([asdict(evaluation) for evaluation in done]).encode())
        return done
