"""From a configuration to the problem a condenser works on: data, preprocessing, network, and the networks it needs."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from condense.augment import DSA
from condense.cache import cache_dir
from condense.config import EvaluationConfig, Resolved, RunConfig, read_resolved
from condense.costs import NOTHING, Cost, Meter
from condense.data import Inputs, RealData, fit_preprocessing, load_dataset
from condense.errors import ConfigError, DataError
from condense.evaluation import NO_VALIDATION, load_protocol, load_protocols
from condense.experts import ExpertPlan, Stream, TrajectoryStore, rank_by_difficulty, train_expert
from condense.files import make_folder, write_atomic
from condense.loading import load_lazy_torch
from condense.locks import lock
from condense.methods import METHODS, DecoupledConfig, ExpertConfig, MethodConfig, Need, Problem, TeacherConfig
from condense.networks import (
    COMPILED_NUMERICS,
    CompiledNetwork,
    Network,
    Precision,
    canonical,
    compiling_pays,
    create,
    has_compiler,
    operations,
)
from condense.rng import isolated
from condense.runs import ProgressDisplay, StopFlag, progress, stop_signals
from condense.scale import RESULT, Executor, Shared, Unit, finish
from condense.teachers import SqueezePlan, Teacher, held_out_accuracy, squeeze

logger = logging.getLogger("condense")
T = TypeVar("T")
NUMERICS = 1
"""Raised when a change of the code changes the bits of an expert, a teacher or an evaluation: what is kept is stale."""


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, for the names of files that depend on them."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def load_data(config: EvaluationConfig) -> RealData:
    """The data set of an evaluation, on the CPU.

    Raises DataError for missing or damaged data, ConfigError for a network that does not take the images, and for a
    protocol that needs a validation split where there is none.
    """
    data = load_dataset(config.dataset, root=config.data_root, download=config.download, validation=config.validation)
    refuse(_misfits(config.networks, data) + _unchosen(config, data))
    return data


def load_run_data(resolved: Resolved) -> RealData:
    """The run's data set, on the CPU.

    Raises DataError for missing or damaged data, and ConfigError as `check_run`.
    """
    r = resolved.run
    data = load_dataset(r.dataset, root=r.data_root, download=r.download, validation=r.validation)
    check_run(resolved, data)
    return data


def check_run(resolved: Resolved, data: RealData) -> None:
    """Raise ConfigError where the configuration does not fit the data, with all that is wrong.

    A class with too few training images, a network or teacher that does not take the images or lacks what a method
    needs of it, a use of the validation split without one, a key that does not apply, a label store that the protocol
    does not play back.
    """
    r, method = resolved.run, resolved.method
    problems = too_few(r.ipc, r, data, method.real_per_class(r.ipc, data.num_classes))
    problems += method.misfits(r.ipc, data.num_classes, len(data.validation))
    if isinstance(method, DecoupledConfig):
        problems += _misfits(method.teachers, data) or _in_vain(method, data)
        without = {"compile": ("auto", "off"), "precision": ("fp32",), "micro_batch": (None,), "memory_limit": (None,)}
        problems += [
            f"{key} = {getattr(r, key)!r} does not apply to method {r.method!r}, which works with teachers; take it out"
            for key, idle in without.items()
            if getattr(r, key) not in idle
        ]
    problems += _unplayed(resolved)
    problems += _too_many(r, method, data.num_classes)
    if r.eval_every and not len(data.validation):
        problems.append("eval_every needs a validation split: set validation above 0, or eval_every to 0")
    misfits = list(dict.fromkeys(_misfits((r.network,), data, r.micro_batch) + _misfits(r.networks, data)))
    embedding = [name for name in (r.method, *r.baselines) if Need.EMBEDDING in METHODS[name].needs]
    if embedding and not misfits and not build_network(r.network, data).has_embedding:
        problems.append(
            f"network {r.network!r} does not end in a Linear layer, so it has no embedding, which "
            f"{' and '.join(embedding)} need. Choose another network, or baselines without them"
        )
    refuse(problems + misfits + _unchosen(r, data))


def too_few(ipc: int, config: EvaluationConfig, data: RealData, wanted: int | None = None) -> list[str]:
    """What is wrong if a class has fewer training images than ipc, or than are `wanted` for that."""
    counts, wanted = torch.bincount(data.train.labels, minlength=data.num_classes), ipc if wanted is None else wanted
    smallest = int(counts.argmin())
    if wanted <= int(counts[smallest]):
        return []
    return [
        f"ipc = {ipc}: class {data.classes[smallest]!r} of {data.name} has only {int(counts[smallest])} training "
        f"images (validation = {config.validation} of each class is held out), and {wanted} are needed. "
        f"Choose ipc <= {int(counts[smallest]) * ipc // wanted}"
    ]


def _too_many(r: RunConfig, method: MethodConfig, classes: int) -> list[str]:
    """What is wrong with the number of processes: each must have something of an iteration to do."""
    units = method.units(r.ipc, classes)
    if r.processes <= max(units, 1):
        return []
    if not method.unit:
        split = ", ".join(sorted(name for name, cls in METHODS.items() if cls.Config.unit))
        return [
            f"processes = {r.processes}: method {r.method!r} has no iterations that they could share. Start it without "
            f"torchrun, or choose one that has: {split}"
        ]
    return [
        f"processes = {r.processes}: they share an iteration of {r.method} by its {method.unit}, whose number is "
        f"{units}. Start no more processes than that"
    ]


def settle_processes(resolved: Resolved, started: int) -> Resolved:
    """The configuration with as many processes as were started, where it does not say how many.

    Raises ConfigError where it says another number, and for a device that not all of them can have.
    """
    r, origins = resolved.run, resolved.origins
    if origins["processes"] == "default":
        r = r.model_copy(update={"processes": started})
        origins = origins | ({"processes": "torchrun"} if started > 1 else {})
    check_processes(r, started)
    return replace(resolved, run=r, origins=origins)


def check_processes(r: RunConfig, started: int) -> None:
    """Raise ConfigError if there are not as many processes as the run has, or they are not to have a device each."""
    if r.processes != started:
        how = f"with torchrun --nproc-per-node {r.processes} -m condense" if r.processes > 1 else "without torchrun"
        raise ConfigError(
            f"processes = {r.processes}, on which the bits of the result depend, but this is one of {started}. "
            f"Start the command {how}"
        )
    if started > 1 and ":" in r.device:
        raise ConfigError(f"device = {r.device!r} is one device, but each of {started} processes takes one: give cuda")


def _misfits(networks: Sequence[str], data: RealData, micro_batch: int | None = None) -> list[str]:
    """What is wrong with these networks for these data."""
    problems = []
    for spec in dict.fromkeys(networks):
        try:
            build_network(spec, data, micro_batch=micro_batch)
        except ConfigError as error:
            problems.append(str(error))
    return problems


def _in_vain(method: DecoupledConfig, data: RealData) -> list[str]:
    """What the method will ask of its teachers in vain."""
    where = {"channels": data.channels, "size": data.size, "classes": data.num_classes}
    with isolated(0, "check"):
        teachers = [Teacher(spec, create(spec, **where), None) for spec in dict.fromkeys(method.teachers)]
        images = torch.randn(2, data.channels, data.size, data.size)
    problems = []
    for trial in method.trials(teachers, images):
        try:
            trial()
        except ConfigError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _unplayed(resolved: Resolved) -> list[str]:
    """What is wrong if the method or a baseline has labels in a store, and the protocol does not play that back."""
    r = resolved.run
    configs = {name: METHODS[name].Config() for name in r.baselines} | {r.method: resolved.method}
    stored = [name for name, config in configs.items() if isinstance(config, DecoupledConfig) and config.stores_labels]
    if not stored or load_protocol(r.protocol).temperature is not None:
        return []
    distilling = [name for name, protocol in load_protocols().items() if protocol.temperature is not None]
    return [
        f"protocol = {r.protocol!r} trains on the hard labels alone, and those of {' and '.join(stored)} are what "
        f"teachers say of views. Choose a protocol that distils: {', '.join(distilling)}"
    ]


def _unchosen(config: EvaluationConfig, data: RealData) -> list[str]:
    """What is wrong if the protocol chooses something and there is nothing to choose it on."""
    chooses = load_protocol(config.protocol).lrs and not len(data.validation)
    return [NO_VALIDATION.format(config.protocol)] if chooses else []


def refuse(problems: Sequence[str]) -> None:
    """Raise ConfigError with all the problems, if there are any."""
    if problems:
        raise ConfigError("\n".join(problems))


def build_network(
    spec: str,
    data: RealData,
    device: torch.device | str = "cpu",
    *,
    compiled: bool = False,
    precision: Precision = "fp32",
    micro_batch: int | None = None,
) -> Network:
    """The network `spec` for the images and classes of `data`; `precision` is that of a compiled one."""
    where: dict[str, Any] = {"channels": data.channels, "size": data.size, "classes": data.num_classes}
    where |= {"device": device, "micro_batch": micro_batch}
    return CompiledNetwork(spec, precision=precision, **where) if compiled else Network(spec, **where)


def settle_compile(resolved: Resolved, data: RealData) -> Resolved:
    """The configuration with `compile` on or off where it was auto: on for COMPILE_PAYS operations or more.

    It depends on the configuration and the data alone, not on what is in the cache, so that the same command always
    gives the same bits. Raises ConfigError if it is on and there is no C++ compiler, which torch.compile needs.
    """
    r = resolved.run
    missing = r.torch_device.type == "cpu" and not has_compiler()
    if r.precision != "fp32" and (r.compile == "off" or missing):
        raise ConfigError(
            f"precision = {r.precision!r} is for compiled networks, and "
            + ("there is no C++ compiler: install g++ or clang++" if missing else "compile = 'off': leave it out")
            + ", or give precision = 'fp32'"
        )
    if r.compile != "auto":
        if r.compile == "on" and missing:
            raise ConfigError("compile = 'on' needs a C++ compiler: install g++ or clang++, or give compile = 'off'")
        return resolved
    planned = planned_operations(resolved, data)
    on = r.precision != "fp32" or compiling_pays(planned, r.torch_device)
    why = "no C++ compiler" if missing else f"{planned:.1g} floating-point operations are planned"
    if r.precision != "fp32":
        why = f"precision = {r.precision!r}"
    run = r.model_copy(update={"compile": "on" if on else "off"})
    return Resolved(run, resolved.method, resolved.origins | {"compile": f"{resolved.origins['compile']}: {why}"})


def planned_operations(resolved: Resolved, data: RealData) -> float:
    """Floating-point operations of the matrix products and convolutions in training and distillation.

    A pass backward counts as two forward. Augmentation, evaluation and normalisation do not count.
    """
    r, method = resolved.run, resolved.method
    passes = method.iterations * method.passes(data.num_classes, r.ipc)
    if isinstance(method, ExpertConfig):
        plan = method.expert_plan(r.dsa)
        passes += plan.passes(method.num_experts) * len(data.train)
    if isinstance(method, TeacherConfig):
        passes += method.teacher_epochs * len(data.train)
    if not passes:
        return 0
    return passes * operations(r.network, channels=data.channels, size=data.size, classes=data.num_classes)


def build_problem(r: RunConfig, data: RealData) -> Problem:
    """The problem on the run's device, without experts or teacher."""
    data = to_device(data, r.torch_device)
    return Problem(
        data=data,
        preprocessing=fit_preprocessing("zca" if r.zca else "mean_std", data, cache_dir()).to(r.torch_device),
        network=build_network(
            r.network,
            data,
            r.torch_device,
            compiled=r.compile == "on",
            precision=r.precision,
            micro_batch=r.micro_batch,
        ),
        augmentation=DSA(r.dsa),
        ipc=r.ipc,
        seed=r.seed,
    )


def to_device(data: RealData, device: torch.device) -> RealData:
    """The data there, where float32 means float32 and the same kernels are taken every time."""
    settle(device)
    return data.to(device)


def settle(device: torch.device) -> None:
    """Make float32 mean float32 on the device, and take the same kernels every time."""
    load_lazy_torch()
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def provide(resolved: Resolved, problem: Problem, stop: StopFlag) -> tuple[Problem, dict[str, Cost | None]]:
    """The problem with all that the method declares in `needs`, trained now where it is not on disk yet.

    Also what the training of each took, whenever that was; None where it is not known.
    """
    needs = METHODS[resolved.run.method].needs
    costs: dict[str, Cost | None] = {}
    if Need.EXPERTS in needs:
        assert isinstance(resolved.method, ExpertConfig)
        store = experts(resolved, problem, stop)
        plan = resolved.method.expert_plan(resolved.run.dsa)
        ranked = plan.curriculum is not None
        costs["experts"] = store.cost(resolved.method.num_experts, plan.epochs + 1, ranked=ranked)
        problem = replace(problem, experts=store)
    if Need.TEACHER in needs:
        theta, costs["teacher"] = teacher(resolved, problem, stop)
        problem = replace(problem, teacher=theta)
    if Need.POOL in needs:
        teachers, costs["teachers"] = pool(resolved, problem, stop)
        problem = replace(problem, pool=teachers, watch=partial(_watch, stop))
    return problem, costs


@contextmanager
def _watch(stop: StopFlag, what: str, steps: int) -> Iterator[Callable[[], None]]:
    """A `condense.methods.Watch`: gives what shows that one more of the steps is done, and then obeys a stop."""
    numbers = count()
    with progress(steps, 0, what) as display:

        def done() -> None:
            display.update(next(numbers), {})
            stop.check()

        yield done


def _identity(r: RunConfig, problem: Problem, plan: ExpertPlan) -> dict[str, Any]:
    """Everything that decides the bits of an expert, apart from its index and the number of its epochs."""
    return {
        **_training_identity(r, problem),
        "network": problem.network.name,
        **plan.model_dump(exclude={"epochs"}, exclude_none=True),
        **({"compiled": COMPILED_NUMERICS} if problem.network.compiled else {}),
        **({"precision": r.precision} if r.precision != "fp32" else {}),
        **({"micro_batch": r.micro_batch} if r.micro_batch is not None and r.micro_batch < plan.batch else {}),
    }


def _training_identity(r: RunConfig, problem: Problem) -> dict[str, Any]:
    """What decides the bits of every network that is trained on the real data, whatever it is."""
    return {
        "data": problem.data.name.partition(":")[0],
        "data_sha256": problem.data.sha256,
        "validation": r.validation,
        "preprocessing": problem.preprocessing.kind,
        "seed": problem.seed,
        "numerics": NUMERICS,
    }


def store_path(resolved: Resolved, problem: Problem) -> Path:
    """Where the run's trajectory store is or will be: at `buffer`, or under its own content's name in the cache.

    Epoch e of an expert is the same whatever the number of epochs to come, so a longer store in the cache serves too,
    if it is complete.
    """
    r, method = resolved.run, resolved.method
    assert isinstance(method, ExpertConfig)
    if method.buffer is not None:
        return method.buffer
    plan = method.expert_plan(r.dsa)
    name = digest(_identity(r, problem, plan) | {"dtype": method.buffer_dtype})[:16]
    folder = cache_dir() / "buffers" / f"{r.dataset.partition(':')[0]}-{name}"
    longer = sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdigit())
    for epochs in longer:
        if epochs > plan.epochs and not _open(folder / str(epochs), resolved, problem).missing(method.num_experts):
            return folder / str(epochs)
    return folder / str(plan.epochs)


def open_store(resolved: Resolved, problem: Problem) -> TrajectoryStore:
    """The run's trajectory store; an empty one is made where there is none. Raises DataError for one of another run."""
    return _open(store_path(resolved, problem), resolved, problem)


def _open(
    path: Path,
    resolved: Resolved,
    problem: Problem,
    identity: Mapping[str, Any] | None = None,
    epochs: int | None = None,
) -> TrajectoryStore:
    """The store at a path; `identity` is what it has beside that of the run, `epochs` what it has if not the run's."""
    method = resolved.method
    assert isinstance(method, ExpertConfig)
    plan = method.expert_plan(resolved.run.dsa)
    return TrajectoryStore.open(
        path,
        identity=_identity(resolved.run, problem, plan) | dict(identity or {}),
        snapshots=(epochs or plan.epochs) + 1,
        parameters=problem.network.num_parameters,
        dtype=method.buffer_dtype,
        device=problem.device,
    )


def missing_experts(resolved: Resolved, problem: Problem) -> list[int]:
    """The experts that are still to be trained. Raises DataError for a store of another run; writes nothing."""
    if not isinstance(resolved.method, ExpertConfig):
        return []
    if not (store_path(resolved, problem) / "manifest.json").exists():
        return list(range(resolved.method.num_experts))
    return open_store(resolved, problem).missing(resolved.method.num_experts)


def experts(resolved: Resolved, problem: Problem, stop: StopFlag, executor: Executor | None = None) -> TrajectoryStore:
    """The run's trajectory store, complete: the experts it lacks are trained first, in this process or by the executor.

    A stop is obeyed between two epochs; the expert it interrupts is trained again next time, to the same bits. So is
    one that is damaged. While another process trains experts of this store, this one waits for it. Raises UnitError for
    experts that failed in processes of their own, once the others are there.
    """
    method = resolved.method
    assert isinstance(method, ExpertConfig)
    store = open_store(resolved, problem)
    if store.missing(method.num_experts) or store.damaged(method.num_experts):
        with lock(store.path / "lock", wait=stop.check):
            store = open_store(resolved, problem)  # as another process may just have left it
            if damaged := store.damaged(method.num_experts):
                logger.warning("%s: experts %s are damaged and are trained again", store.path, damaged)
                store.forget(damaged)
            if store.missing(method.num_experts):
                _train_missing(store, resolved, problem, stop, executor)
    return store


def _train_missing(
    store: TrajectoryStore, resolved: Resolved, problem: Problem, stop: StopFlag, executor: Executor | None
) -> None:
    method, epochs = resolved.method, store.snapshots - 1
    assert isinstance(method, ExpertConfig)
    plan = method.expert_plan(resolved.run.dsa).model_copy(update={"epochs": epochs})
    missing = store.missing(method.num_experts)
    done = (method.num_experts - len(missing)) * epochs
    ranking = store.ranking(lambda: _rank(problem, plan, stop)) if plan.curriculum else None
    with progress(method.num_experts * epochs, done, "experts") as display:
        if executor is not None:
            units = {_expert_unit(store, resolved, problem, ranking, index): index for index in missing}
            with executor:
                show = partial(_show, display, done)
                for unit in finish(list(units), executor, stop, steps=epochs, show=show):
                    store.take(units[unit], _apart(unit.folder, resolved, problem, units[unit], epochs))
                    shutil.rmtree(unit.folder)
            return
        for place, index in enumerate(missing):
            trajectory = _train(problem, plan, index, "expert", ranking)
            store.write(index, _watched(trajectory, display, done + place * epochs, stop))


def _show(display: ProgressDisplay, before: int, done: int) -> None:
    display.update(before + done - 1, {})


def _expert_unit(
    store: TrajectoryStore, resolved: Resolved, problem: Problem, ranking: Sequence[Tensor] | None, index: int
) -> Unit:
    """An expert that is trained in a process of its own."""
    return Unit(
        name=f"expert {index}",
        folder=store.path / "units" / f"expert-{index:04d}",
        work=train_apart,
        arguments={"values": resolved.values(), "index": index, "epochs": store.snapshots - 1},
        shared=Shared(problem.data.sha256, lambda: (problem.data.to(torch.device("cpu")), ranking)),
    )


def train_apart(
    folder: Path,
    shared: tuple[RealData, Sequence[Tensor] | None] | None,
    *,
    values: dict[str, Any],
    index: int,
    epochs: int,
) -> Iterator[int]:
    """The work of a unit: train one expert, the only one of a store in `folder`."""
    resolved = read_resolved(values, "the command that started this")
    data, ranking = shared or (load_run_data(resolved), None)
    problem, method = build_problem(resolved.run, data), resolved.method
    assert isinstance(method, ExpertConfig)
    plan = method.expert_plan(resolved.run.dsa).model_copy(update={"epochs": epochs})
    make_folder(folder)
    with lock(folder / "lock"), stop_signals() as stop:
        if plan.curriculum and ranking is None:
            ranking = open_store(resolved, problem).ranking(lambda: _rank(problem, plan, stop))
        store = _apart(folder, resolved, problem, index, epochs)
        for written in store.writing(0, _train(problem, plan, index, "expert", ranking)):
            stop.check()
            yield written - 1
        write_atomic(folder / RESULT, json.dumps({"expert": index}).encode())


def _apart(folder: Path, resolved: Resolved, problem: Problem, index: int, epochs: int) -> TrajectoryStore:
    """The store of one expert alone. Raises DataError for one of another run, or of other data."""
    return _open(folder, resolved, problem, {"expert": index}, epochs)


def _rank(problem: Problem, plan: ExpertPlan, stop: StopFlag) -> list[Tensor]:
    labels = problem.data.train.labels
    return rank_by_difficulty(problem.network, problem.inputs, labels, plan, seed=problem.seed, poll=stop.check)


def teacher(resolved: Resolved, problem: Problem, stop: StopFlag) -> tuple[Tensor, Cost]:
    """Parameters [P] of one network trained on the training split, from the cache if they are there; and their cost."""
    file = teacher_file(resolved, problem)

    def train() -> tuple[Tensor, Cost]:
        assert isinstance(resolved.method, TeacherConfig)
        plan, meter = resolved.method.teacher_plan(resolved.run.dsa), Meter(problem.device)
        with progress(plan.epochs, 0, "teacher") as display:
            *_, theta = _watched(_train(problem, plan, 0, "teacher"), display, 0, stop)
        cost = meter.read()
        kept = {"theta": theta.cpu(), "cost": torch.tensor([cost.seconds, cost.peak_bytes], dtype=torch.float64)}
        write_atomic(file, save(kept))
        return theta.to(problem.device), cost

    return _once(file, lambda: held_teacher(resolved, problem), train, stop)


def _once(file: Path, look: Callable[[], T | None], make: Callable[[], T], stop: StopFlag) -> T:
    """What `look` finds in the cache, at `file`; else `make` puts it there, in one process while the others wait."""
    if (found := look()) is not None:
        return found
    make_folder(file.parent)
    with lock(file.with_suffix(".lock"), wait=stop.check):
        found = look()  # as another process may just have left it
        return make() if found is None else found


def held_teacher(resolved: Resolved, problem: Problem) -> tuple[Tensor, Cost] | None:
    """The teacher in the cache and its cost; None if it is not there, damaged, or of a version that kept no cost."""
    try:
        held = load(teacher_file(resolved, problem).read_bytes())
        theta, (seconds, peak_bytes) = held["theta"], held["cost"].tolist()
    except (OSError, SafetensorError, KeyError):
        return None
    return theta.to(problem.device), Cost(seconds, int(peak_bytes))


def teacher_file(resolved: Resolved, problem: Problem) -> Path:
    """Where the run's teacher is or will be."""
    assert isinstance(resolved.method, TeacherConfig)
    plan = resolved.method.teacher_plan(resolved.run.dsa)
    name = digest(_identity(resolved.run, problem, plan) | {"epochs": plan.epochs})[:32]
    return cache_dir() / "teachers" / f"{name}.safetensors"


def pool(
    resolved: Resolved, problem: Problem, stop: StopFlag, executor: Executor | None = None
) -> tuple[tuple[Teacher, ...], Cost]:
    """The run's teachers, each from the cache if it is there; and what their training took in all.

    Those that are not are trained in this process, one after the other, or by the executor. A stop is obeyed between
    two epochs; the teacher it interrupts is trained again next time, to the same bits. While another process trains a
    teacher, this one waits for it. Raises UnitError for teachers that failed in processes of their own, once the others
    are there.
    """
    plans = pool_plans(resolved, problem.data)
    if executor is not None:
        _squeeze_apart(resolved, problem, plans, stop, executor)
    teachers, total = [], NOTHING
    for plan, index in plans:
        found, cost = _once(
            pool_file(resolved, problem, plan, index),
            partial(held_in_pool, resolved, problem, plan, index),
            partial(_taught, resolved, problem, plan, index, stop),
            stop,
        )
        teachers.append(found)
        total = Cost(total.seconds + cost.seconds, max(total.peak_bytes, cost.peak_bytes))
    return tuple(teachers), total


def _squeeze_apart(
    resolved: Resolved,
    problem: Problem,
    plans: Sequence[tuple[SqueezePlan, int]],
    stop: StopFlag,
    executor: Executor,
) -> None:
    """Train the teachers that are not in the cache, each in a process of its own."""
    files = {}
    for place, (plan, index) in enumerate(plans):
        if held_in_pool(resolved, problem, plan, index) is None:
            file = pool_file(resolved, problem, plan, index)
            unit = Unit(
                name=f"teacher {plan.network}" + (f", number {index}" if index else ""),
                folder=file.with_suffix(""),
                work=teach_apart,
                arguments={"values": resolved.values(), "place": place},
                shared=Shared(problem.data.sha256, lambda: problem.data.to(torch.device("cpu"))),
            )
            files[unit] = file
    if not files:
        return
    epochs = plans[0][0].epochs
    with executor, progress(len(files) * epochs, 0, "teachers") as display:
        show = partial(_show, display, 0)
        for unit in finish(list(files), executor, stop, steps=epochs, show=show):
            write_atomic(files[unit], (unit.folder / TEACHER).read_bytes())
            shutil.rmtree(unit.folder)


TEACHER = "teacher.safetensors"


def teach_apart(folder: Path, shared: RealData | None, *, values: dict[str, Any], place: int) -> Iterator[int]:
    """The work of a unit: train the teacher at a place of the run's pool, into a file in `folder`."""
    resolved = read_resolved(values, "the command that started this")
    problem = build_problem(resolved.run, shared or load_run_data(resolved))
    plan, index = pool_plans(resolved, problem.data)[place]
    make_folder(folder)
    with lock(folder / "lock"), stop_signals() as stop:
        write_atomic(folder / TEACHER, _saved(*(yield from _squeezed(problem, plan, index, stop))))
        write_atomic(folder / RESULT, json.dumps({"network": plan.network, "number": index}).encode())


def pool_plans(resolved: Resolved, data: RealData) -> list[tuple[SqueezePlan, int]]:
    """How each teacher of the run is trained, by its network's canonical name, and the number of equal ones before it.

    So a teacher is the same in every pool that has it, however its network is spelt.
    """
    assert isinstance(resolved.method, DecoupledConfig)
    where = {"channels": data.channels, "size": data.size, "classes": data.num_classes}
    plans = [
        plan.model_copy(update={"network": canonical(plan.network, **where)})
        for plan in resolved.method.plans(resolved.run.dsa)
    ]
    return [(plan, plans[:place].count(plan)) for place, plan in enumerate(plans)]


def _taught(
    resolved: Resolved, problem: Problem, plan: SqueezePlan, index: int, stop: StopFlag
) -> tuple[Teacher, Cost]:
    """A teacher, trained and put into the cache; and what it took."""
    with progress(plan.epochs, 0, f"teacher {plan.network}") as display:
        made = _shown(_squeezed(problem, plan, index, stop), display)
    write_atomic(pool_file(resolved, problem, plan, index), _saved(*made))
    return made


def _squeezed(
    problem: Problem, plan: SqueezePlan, index: int, stop: StopFlag
) -> Generator[int, None, tuple[Teacher, Cost]]:
    """Train a teacher; yields the number of its epochs after each."""
    data, meter = problem.data, Meter(problem.device)
    epochs = squeeze(plan, problem.inputs, data.train.labels, classes=data.num_classes, seed=problem.seed, index=index)
    for done, trained in enumerate(epochs, 1):
        stop.check()
        yield done
        module = trained
    held_out = Inputs(data.validation, problem.preprocessing)
    accuracy = held_out_accuracy(module, held_out, data.validation.labels)
    return Teacher(plan.network, module, accuracy), meter.read()


def _shown(work: Generator[int, None, tuple[Teacher, Cost]], display: ProgressDisplay) -> tuple[Teacher, Cost]:
    """What the work comes to; the display is told of its steps."""
    while True:
        try:
            display.update(next(work) - 1, {})
        except StopIteration as ended:
            made: tuple[Teacher, Cost] = ended.value
            return made


def _saved(teacher: Teacher, cost: Cost) -> bytes:
    """The content of a teacher's file."""
    numbers = [torch.nan if teacher.accuracy is None else teacher.accuracy, cost.seconds, cost.peak_bytes]
    content: bytes = save({**teacher.state(), "numbers": torch.tensor(numbers, dtype=torch.float64)})
    return content


def held_in_pool(resolved: Resolved, problem: Problem, plan: SqueezePlan, index: int) -> tuple[Teacher, Cost] | None:
    """The teacher in the cache and what it took; None if it is not there, or damaged."""
    try:
        held = load(pool_file(resolved, problem, plan, index).read_bytes())
        accuracy, seconds, peak_bytes = held.pop("numbers").tolist()
        kept = Teacher.from_state(
            plan.network,
            {name: tensor.to(problem.device) for name, tensor in held.items()},
            channels=problem.data.channels,
            size=problem.data.size,
            classes=problem.data.num_classes,
            accuracy=None if math.isnan(accuracy) else accuracy,
        )
    except (OSError, SafetensorError, KeyError, DataError):
        return None
    return kept, Cost(seconds, int(peak_bytes))


def pool_file(resolved: Resolved, problem: Problem, plan: SqueezePlan, index: int) -> Path:
    """Where a teacher of the pool is or will be. One that was trained on another type of device is another teacher."""
    identity = _training_identity(resolved.run, problem) | plan.model_dump() | {"index": index, "squeezed": True}
    if problem.device.type != "cpu":
        identity["device"] = problem.device.type
    return cache_dir() / "teachers" / f"{digest(identity)[:32]}.safetensors"


def _train(
    problem: Problem, plan: ExpertPlan, index: int, stream: Stream, ranking: Sequence[Tensor] | None = None
) -> Iterator[Tensor]:
    return train_expert(
        problem.network,
        problem.inputs,
        problem.data.train.labels,
        plan,
        seed=problem.seed,
        index=index,
        stream=stream,
        ranking=ranking,
    )


def _watched(trajectory: Iterator[Tensor], display: ProgressDisplay, first: int, stop: StopFlag) -> Iterator[Tensor]:
    """The same trajectory, shown on the display from epoch `first` on, and open to a stop after each epoch."""
    for epoch, theta in enumerate(trajectory):
        stop.check()
        if epoch:
            display.update(first + epoch - 1, {})
        yield theta
