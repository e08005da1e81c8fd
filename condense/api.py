"""What the command line does, as functions."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from condense import evaluation, numerics, provide, robustness
from condense.artifact import (
    Artifact,
    DatasetRecord,
    MethodRecord,
    add_evaluations,
    fit_to,
    load_artifact,
    note_numerics,
    read_manifest,
    read_set,
    refuse_existing,
    save_artifact,
    stated_map,
)
from condense.cache import cache_dir
from condense.comparison import (
    Comparison,
    compare,
    evaluate_baselines,
    evaluate_run,
    record_new,
    training_set,
    validation_observer,
)
from condense.config import MIRROR_FREE, EvaluationConfig, Layer, Resolved, read_evaluation, read_resolved, resolve
from condense.costs import Cost, Meter
from condense.data import RealData, fit_preprocessing
from condense.errors import ConfigError, RunError, unknown
from condense.estimate import settle_memory
from condense.evaluation import (
    AnyDataset,
    Attempt,
    Evaluation,
    NetworkLike,
    TestSet,
    TrainingSet,
    as_test_set,
    as_training_set,
    fresh_networks,
    load_protocol,
)
from condense.loop import distillation_loop, refuse
from condense.methods import METHODS, DecoupledConfig, ExpertConfig, Problem
from condense.precision import report_precision
from condense.robustness import Robustness
from condense.runs import FollowedFolder, RunFolder, create_trackers, stop_signals
from condense.scale import Executor
from condense.scale.ranks import Lone, join
from condense.synthetic import DistilledSet
from condense.trials import Apart

EVALUATION_KEYS = {"eval_networks", "protocol", "eval_repeats", "seed", "dataset", "data_root", "device"}


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what it scored: an evaluation for each network, and such a list for each baseline.

    `making` is what each part of making the set took without the evaluations (experts, teacher, distillation), whenever
    that was and however often it was interrupted: what had to be done twice counts once, and training that came from
    the cache counts as when it was done. None where it is not known; empty for runs of earlier versions.
    """

    run: Path
    artifact: Path
    evaluations: list[Evaluation]
    baselines: dict[str, list[Evaluation]]
    making: dict[str, Cost | None] = field(default_factory=dict)


def distill(method: str, ipc: int, *, out: Path | str, **values: Any) -> RunResult:
    """Distil a data set into `ipc` images per class and evaluate the result, as `condense run` does.

    `values` are keys that `condense show` lists, for example dataset="cifar10", seed=1, syn_steps=20. The run is kept
    in the folder `out`, which must be new or empty.

    Raises ConfigError for wrong keys and values, all of them at once, and DataError for missing or damaged data, both
    before any work; NumericsError if the run diverges; Stopped on SIGTERM or SIGINT, with a checkpoint.
    """
    return run(resolve([Layer("distill()", {"method": method, "ipc": ipc, **values})]), Path(out))


def run(resolved: Resolved, out: Path, data: RealData | None = None) -> RunResult:
    """A new run in the folder `out`, of a configuration that is already resolved; of its `data`, if they are there."""

    def lead(ranks: Lone) -> RunResult:
        settled, problem = prepare(provide.settle_processes(resolved, ranks.size), data)
        with RunFolder.create(out) as folder:
            settled, problem = fit_memory(settled, problem)
            folder.write_config(settled.values(), settled.origins)
            folder.note_numerics(numerics.describe(problem.device))
            return _execute(settled, problem, folder, ranks)

    return _on_ranks(lead)


def resume(path: Path | str, *, elsewhere: bool = False) -> RunResult:
    """Continue the run in a folder, to the same bits as if it had never stopped. A finished run is only reported.

    Raises RunError where other bits may come out than where it began (`condense.numerics`): with another number of
    threads, instruction set, build of torch or device. With `elsewhere` it goes on all the same, and its set says so.
    """

    def lead(ranks: Lone) -> RunResult:
        with RunFolder.open(Path(path)) as folder:
            if (finished := _finished(folder)) is not None:
                ranks.tell(str(folder.path.absolute()))
                return finished
            resolved = _recorded(folder)
            provide.check_processes(resolved.run, ranks.size)
            folder.note_numerics(numerics.describe(resolved.run.torch_device), elsewhere=elsewhere)
            return _execute(*prepare(resolved), folder, ranks)

    return _on_ranks(lead)


def follow() -> None:
    """What each rank but 0 does of a run or resume that torchrun has started: what rank 0 says (`condense.scale`)."""
    with join() as ranks:
        _follow(ranks)


def _on_ranks(lead: Callable[[Lone], RunResult]) -> RunResult:
    """`lead` on rank 0, which the others follow; all return its result."""
    with join() as ranks:
        if ranks.rank == 0:
            return lead(ranks)
        folder = _follow(ranks)
    finished = _finished(folder)
    assert finished is not None
    return finished


def _recorded(folder: RunFolder) -> Resolved:
    values = {"compile": "off"} | folder.read_config()  # runs of earlier versions do not say
    return read_resolved(values, str(folder.path / "config.toml"), folder.read_origins())


def _finished(folder: RunFolder) -> RunResult | None:
    found = folder.read_result()
    if found is None:
        return None
    try:
        result = _RESULT.validate_json(found)
    except ValidationError as error:
        raise RunError(
            f"{folder.path / 'result.json'} is damaged ({error.errors(include_url=False)[0]['msg']}). Delete "
            "it and resume again: the set is there, and is evaluated anew."
        ) from None
    return replace(result, run=folder.path, artifact=folder.artifact_path)


def prepare(resolved: Resolved, data: RealData | None = None) -> tuple[Resolved, Problem]:
    """The problem of a run, once all that can be wrong with it has been looked at, before anything is written.

    In the configuration that comes back, what was automatic is decided.
    """
    create_trackers(resolved.run.tracker, Path())  # a package may be missing
    resolved, problem = _load(resolved, data)
    provide.missing_experts(resolved, problem)  # the store may be another run's
    return resolved, problem


def fit_memory(resolved: Resolved, problem: Problem) -> tuple[Resolved, Problem]:
    """What `prepare` gave, with a micro_batch that keeps the run within its memory_limit, if it has one.

    A run that is resumed has it already.
    """
    if resolved.run.memory_limit is None:
        return resolved, problem
    resolved = settle_memory(resolved, problem)
    return resolved, provide.build_problem(resolved.run, problem.data)


def _load(resolved: Resolved, data: RealData | None = None) -> tuple[Resolved, Problem]:
    data = data or provide.load_run_data(resolved)
    resolved = provide.settle_compile(resolved, data)
    return resolved, provide.build_problem(resolved.run, data)


def train_buffer(resolved: Resolved, executor: Executor | None = None) -> Path:
    """Train the experts, or the pool of teachers, that a run of this configuration needs; return the folder with them.

    By default in this process, else each by the executor. Raises UnitError for those that failed there.
    """
    method = resolved.method
    if not isinstance(method, ExpertConfig | DecoupledConfig):
        raise ConfigError(f"method {resolved.run.method!r} needs no experts and no pool of teachers: nothing to train")
    resolved, problem = fit_memory(*_load(resolved))
    with stop_signals() as stop:
        if isinstance(method, ExpertConfig):
            return provide.experts(resolved, problem, stop, executor).path
        provide.pool(resolved, problem, stop, executor)
        return cache_dir() / "teachers"


def evaluate(
    source: Path | str | Artifact | TrainingSet | AnyDataset,
    networks: Sequence[NetworkLike] = (),
    *,
    protocol: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    dataset: str | None = None,
    data_root: Path | str | None = None,
    test: TestSet | AnyDataset | None = None,
    validation: TestSet | AnyDataset | None = None,
    dsa: str | None = None,
) -> list[Evaluation]:
    """Train fresh networks on a distilled set, and test each once: one evaluation for each of `networks`.

    `source` is the folder of a distilled set, whose manifest then gets the results, or what `condense.load` made of it.
    Networks, protocol, `n` (fresh networks of each kind), seed and device are those of its run where they are not
    given, and the data are those it was made from; `dataset` and `data_root` say where these are now.

    Or `source` is a set of your own, a TrainingSet or any torch Dataset, with images [ch, size, size] as networks see
    them and labels that are integers or probabilities. It needs `networks` and a `test` set in the same space, and
    `validation` where the protocol (default: quick) chooses something. Datasets are read into memory, once, so random
    transforms in them do not vary. `dsa` is the augmentation strategy for protocols with DSA; leave its flip out where
    mirror images change the class.

    A network is a spec of `condense ls networks`, or a function without arguments that makes a torch.nn.Module with
    logits [n, classes], such as a class. Raises ArtifactError, ConfigError or DataError before any training.
    """
    given: dict[str, Any] = {"protocol": protocol, "eval_repeats": n, "seed": seed, "device": device}
    given |= {"dataset": dataset, "data_root": data_root, "dsa": dsa}
    values = {key: value for key, value in given.items() if value is not None}
    networks = [networks] if isinstance(networks, str) or callable(networks) else list(networks)
    if isinstance(source, Path | str | Artifact):
        if wrong := [name for name, held in (("test", test), ("validation", validation)) if held is not None]:
            raise ConfigError(f"{' and '.join(wrong)}: a distilled set is tested on the data that it was made from")
        return evaluate_artifact(source, networks, **values)
    if wrong := sorted({"dataset", "data_root"} & values.keys()):
        raise ConfigError(f"{' and '.join(wrong)}: a set of your own is tested on `test`")
    if not networks or test is None:
        raise ConfigError("a set of your own needs networks, for example ['convnet'], and a test set")
    return _evaluate_own(
        as_training_set(source),
        as_test_set(test, "test set"),
        None if validation is None else as_test_set(validation, "validation set"),
        networks,
        read_evaluation(values, "evaluate()"),
    )


def _evaluate_own(
    training: TrainingSet,
    test: TestSet,
    validation: TestSet | None,
    networks: Sequence[NetworkLike],
    config: EvaluationConfig,
) -> list[Evaluation]:
    hard = [int(held.labels.max()) for held in (training, test) if held.labels.ndim == 1]
    classes = training.labels.shape[1] if training.labels.ndim == 2 else 1 + max(hard)
    training.check("training set", classes)
    for network in networks:
        fresh_networks(network, training, classes)
    provide.settle(config.torch_device)
    with stop_signals() as stop:
        return [
            evaluation.evaluate(
                training,
                test,
                network,
                classes=classes,
                protocol=load_protocol(config.protocol),
                dsa=config.dsa,
                seed=config.seed,
                device=config.torch_device,
                validation=validation,
                n=config.eval_repeats,
                poll=stop.check,
            )
            for network in networks
        ]


def evaluate_artifact(
    source: Path | str | Artifact, networks: Sequence[NetworkLike] = (), executor: Executor | None = None, **values: Any
) -> list[Evaluation]:
    """Train fresh networks on a distilled set, and test them on the data set that it was made from.

    `networks` are specs, or functions that make one; default: those of the run. `values` are those keys of the run that
    made it which are to be changed for this evaluation, of `EVALUATION_KEYS`; `dataset` is for data that have moved.
    Each result is added to the manifest of a folder when it is there. The networks are trained in this process, or by
    an executor if they are specs and the set is a folder. Raises ArtifactError, ConfigError or DataError before any
    training, and UnitError for networks that failed in processes of their own.
    """
    artifact, comparison = _opened(source, networks, values)
    training, done = training_set(artifact), []
    for network in networks:
        fresh_networks(network, training, comparison.data.num_classes)
    attempt: Attempt | None = None
    with stop_signals() as stop, executor or nullcontext():
        for network in networks or comparison.config.networks:
            if executor is not None:
                assert isinstance(network, str) and not isinstance(source, Artifact), "what other processes can find"
                attempt = Apart(Path(source), artifact.manifest, training, comparison, network, executor, stop)
            made = comparison.evaluate(training, comparison.test, network, poll=stop.check, attempt=attempt)
            if not isinstance(source, Artifact):
                add_evaluations(Path(source), [asdict(made)])
            done.append(made)
    return done


def evaluate_robustness(path: Path | str, **values: Any) -> Robustness:
    """A distilled set under other augmentations and labels, beside random images and the full data.

    `values` are as for `evaluate_artifact`. The network is the one that the set was made with; the others in
    `eval_networks` are those of the transfer. The evaluations under the protocol itself are added to the manifest, if
    they are not there. All are kept in the cache, so that a stopped command continues. Raises as `evaluate_artifact`.
    """
    artifact, comparison = _opened(path, (), values)
    data, config = comparison.data, comparison.config
    network = str(artifact.manifest.config.get("network", "convnet"))
    own = provide.build_network(network, data).name
    others = [spec for spec in config.networks if provide.build_network(spec, data).name != own]
    with stop_signals() as stop:
        found = robustness.evaluate_robustness(artifact, comparison, network, others, stop)
    record_new(Path(path), found.evaluations)
    return found


def _opened(
    source: Path | str | Artifact, networks: Sequence[NetworkLike], values: dict[str, Any]
) -> tuple[Artifact, Comparison]:
    """A distilled set, and what to compare it with, once all that the keys can get wrong has been looked at."""
    if wrong := sorted(values.keys() - EVALUATION_KEYS):
        raise ConfigError("\n".join(unknown("key of an evaluation", key, EVALUATION_KEYS) for key in wrong))
    artifact = source if isinstance(source, Artifact) else load_artifact(Path(source))
    specs = [network for network in networks if isinstance(network, str)]
    named = {"eval_networks": specs} if specs else {}
    config = read_evaluation(artifact.manifest.config | values | named, "eval")
    return artifact, compare(source, artifact, config)


def import_set(
    source: Path | str,
    out: Path | str,
    *,
    dataset: str,
    data_root: Path | str | None = None,
    labels: Path | str | None = None,
    index: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    zca: Path | str | None = None,
    preprocessing: str | None = None,
    method: str = "imported",
    citation: str = "",
    lr: float | None = None,
) -> Path:
    """Make an artifact at `out` of a set that another program distilled from `dataset`, as `condense import` does.

    `source` is a file or folder as docs/format.md describes, `labels` a file for images that come without, `index` the
    place of the set, from 0, in a file of several. What a number in the images means is stated once: by the source, by
    `mean` and `std` of each channel, by a file `zca`, or, for 8-bit pixels, by the kind of `preprocessing` that is
    fitted to the real data. `method` and `citation` say what made the set; `lr` is its learned learning rate.

    Raises ConfigError, ArtifactError or DataError, before anything is written, if something is not stated, stated
    twice, damaged, or does not fit the real data.
    """
    source, out = Path(source), Path(out)
    refuse_existing(out)
    given = {"dataset": dataset} | ({} if data_root is None else {"data_root": str(data_root)})
    config = read_evaluation(given, "import")
    foreign = read_set(source, None if labels is None else Path(labels), index)
    known, origin = stated_map(foreign, mean=mean, std=std, zca=None if zca is None else Path(zca), fit=preprocessing)
    origins = foreign.origins | {"preprocessing": origin}
    if lr is not None:
        if foreign.lr is not None:
            raise ConfigError(f"{source} brings its learned learning rate, {foreign.lr}. Leave out --lr")
        if not 0 < lr < math.inf:
            raise ConfigError(f"lr = {lr}: a learning rate is positive and finite")
        origins["lr"] = "--lr"
    data = provide.load_data(config)
    if not data.mirrored:
        config = config.model_copy(update={"dsa": MIRROR_FREE})
        origins["dsa"] = f"data set {data.name}"
    foreign = fit_to(foreign, data, source)
    if known is None:
        assert preprocessing is not None
        known = fit_preprocessing(preprocessing, data, cache_dir())
    images = known(foreign.images) if foreign.images.dtype == torch.uint8 else foreign.images
    keys = config.model_dump(mode="json")
    return save_artifact(
        out,
        DistilledSet(images, foreign.labels, foreign.lr if lr is None else lr),
        preprocessing=known,
        classes=data.classes,
        method=MethodRecord(name=method, ipc=math.ceil(len(images) / data.num_classes), citation=citation),
        dataset=DatasetRecord(name=data.name, sha256=data.sha256, source=data.source),
        config=keys,
        provenance=dict.fromkeys(keys, "default") | dict.fromkeys(given, "import") | origins,
    )


def _execute(resolved: Resolved, problem: Problem, folder: RunFolder, ranks: Lone) -> RunResult:
    r, problem = resolved.run, replace(problem, work=ranks)
    ranks.tell(str(folder.path.absolute()))
    condenser = METHODS[r.method](resolved.method)
    trackers = create_trackers(r.tracker, folder.path)
    trackers.start(resolved.values())
    summary: dict[str, object] = {}
    try:
        with stop_signals() as stop:
            if not folder.artifact_path.exists():
                provided, making = provide.provide(resolved, problem, stop)
                if r.precision != "fp32" and resolved.method.iterations and folder.latest_checkpoint() is None:
                    report_precision(condenser, provided)
                ranks.tell()
                state, making["distillation"] = distillation_loop(
                    condenser,
                    provided,
                    folder,
                    iterations=resolved.method.iterations,
                    checkpoint_every=r.checkpoint_every,
                    trackers=trackers,
                    stop=stop,
                    observer=validation_observer(resolved, condenser, provided) if r.eval_every else None,
                    ranks=ranks,
                )
                meter = Meter(problem.device)
                made = condenser.distilled(state, provided)
                learned = {"images": made.images, "labels": made.labels, "compensators": made.compensators}
                refuse(condenser.name, "after the last iteration", learned)
                if made.store is not None:
                    making["labels"] = meter.read()
                _save(resolved, problem, made, making, folder)
            note_numerics(folder.artifact_path, folder.numerics)
            evaluations = evaluate_run(resolved, problem, folder, stop)
            baselines = evaluate_baselines(resolved, problem, stop)
        summary = {f"accuracy/{evaluation.network}": evaluation.mean for evaluation in evaluations}
    finally:
        trackers.finish(summary)
    held = read_manifest(folder.artifact_path).making
    costs = {part: None if cost is None else Cost(cost.seconds, cost.peak_bytes) for part, cost in held.items()}
    result = RunResult(folder.path, folder.artifact_path, evaluations, baselines, costs)
    folder.write_result(_RESULT.dump_json(result, indent=1))
    return result


_RESULT = TypeAdapter(RunResult)


def _follow(ranks: Lone) -> FollowedFolder:
    """The share of another rank in what `_execute` does. It reads what rank 0 has written, and writes nothing."""
    with stop_signals() as stop:
        folder = FollowedFolder(Path(ranks.tell()))
        if not folder.artifact_path.exists():
            resolved, problem = prepare(_recorded(folder))
            ranks.tell()  # what was missing has been trained
            provided, _ = provide.provide(resolved, replace(problem, work=ranks), stop)
            distillation_loop(
                METHODS[resolved.run.method](resolved.method),
                provided,
                folder,
                iterations=resolved.method.iterations,
                checkpoint_every=resolved.run.checkpoint_every,
                trackers=create_trackers((), folder.path),
                stop=stop,
                ranks=ranks,
            )
    return folder


def _save(
    resolved: Resolved, problem: Problem, distilled: DistilledSet, making: dict[str, Cost | None], folder: RunFolder
) -> None:
    method, data = METHODS[resolved.run.method], problem.data
    save_artifact(
        folder.artifact_path,
        distilled,
        preprocessing=problem.preprocessing.to("cpu"),
        classes=data.classes,
        method=MethodRecord(name=method.name, ipc=resolved.run.ipc, citation=method.citation),
        dataset=DatasetRecord(name=data.name, sha256=data.sha256, source=data.source),
        config=resolved.values(),
        provenance=resolved.origins,
        making=making,
    )
