"""A run in small: a few units of each of its phases, one after another, to see what time and memory they take.

`condense rehearse`, which `condense check` starts, because a resident peak is that of a whole process. The
configuration comes as JSON on stdin, and each phase goes to stdout as a line of JSON once it was tried.
The code, the data and the order are those of the run; where there are no experts or no teacher yet, others stand in.
Nothing is left behind but compiled code, in torch's own cache.
"""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from condense import provide
from condense.artifact import STORE_TYPES
from condense.comparison import FULL_DATA, Comparison, baseline, missing_baselines, training_set
from condense.config import Resolved, read_resolved
from condense.costs import Meter
from condense.data import Inputs, Split
from condense.errors import CondenseError, ConfigError, NumericsError
from condense.evaluation import TEST_BATCH, Protocol, TestSet, TrainingSet
from condense.experts import ExpertPlan, train_expert
from condense.methods import (
    METHODS,
    DecoupledConfig,
    ExpertConfig,
    MethodConfig,
    Need,
    Problem,
    TeacherConfig,
    Trajectories,
)
from condense.methods.coreset import EmbeddedCoreset
from condense.methods.kd_subset import KDSubsetConfig
from condense.networks import Network, batch_norms, create
from condense.precision import precision_cosine
from condense.rng import isolated
from condense.synthetic import DistilledSet, State
from condense.teachers import SqueezePlan, Teacher, squeeze

TRY_SECONDS = 3.0
"""For units that are short: what a draw, or the order of blocks in memory, does shows after some of them only."""
UPDATES = 5
"""Of a network that is evaluated."""
FEW = 16
"""Images whose statistics a stand-in for a teacher has."""


@dataclass(frozen=True)
class Phase:
    """A part of a run that was tried: it has `units` of work, of `seconds` each; what was compiled for it took
    `compiling` seconds.

    `peak_bytes` is the most memory that was held at a time so far, as a `Cost` counts it; `state_bytes` the size of a
    checkpoint, where there are any, and `set_bytes` that of the images and labels, where a set begins to be. Several
    phases may have one name.
    """

    name: str
    units: int
    seconds: float
    compiling: float
    peak_bytes: int
    state_bytes: int = 0
    set_bytes: int = 0


class Made(NamedTuple):
    """What a run holds once its set is made: `training` is that set, or as many real images.

    `labels` is how teachers labelled it, where they did.
    """

    problem: Problem
    state: State
    training: TrainingSet
    labels: Phase | None = None


class NearbyExperts:
    """In place of a trajectory store: points near one network."""

    def __init__(self, network: Network) -> None:
        self._theta = network.init(0, "rehearsal")

    def snapshot(self, expert: int, epoch: int) -> Tensor:  # noqa: ARG002 (the store's signature)
        return self._theta + 0.01 * epoch


class Rehearsal:
    """One run. Its phases come in the order in which the run comes to them."""

    def __init__(self, resolved: Resolved, problem: Problem) -> None:
        self._resolved, self._problem = resolved, problem
        self._comparison = Comparison(problem.data, problem.preprocessing, resolved.run)
        self._taught: set[Path] = set()

    def whole(self) -> Iterator[Phase]:
        """The set is made, evaluated and compared."""
        r, data, comparison = self._resolved.run, self._problem.data, self._comparison
        made = yield from self.making(self._resolved)
        if r.eval_every:
            times = self._resolved.method.iterations // r.eval_every
            log = [*self._evaluation("validation", made.training, r.network, comparison.protocol, data.validation, 1)]
            labels = [] if made.labels is None else [replace(made.labels, name="validation", set_bytes=0)]
            yield from (replace(phase, units=times * phase.units) for phase in log + labels)
        for network in r.networks:
            title = f"evaluation of {r.method}"
            yield from self._evaluation(title, made.training, network, comparison.protocol, data.test, r.eval_repeats)
        for name, networks in missing_baselines(self._resolved, self._problem).items():
            training = comparison.everything
            if networks and name != FULL_DATA:
                training = (yield from self.making(baseline(name, self._resolved))).training
            for network in networks:
                title, protocol = f"evaluation of {name}", comparison.protocol_for(name)
                yield from self._evaluation(title, training, network, protocol, data.test, r.eval_repeats)

    def making(self, resolved: Resolved) -> Generator[Phase, None, Made]:
        """A set is made, from its experts or teacher to its last iteration."""
        method, problem = yield from self._provided(resolved)
        name = resolved.run.method
        condenser, state = METHODS[name](method), State()
        if isinstance(condenser, EmbeddedCoreset):
            problem.inputs  # noqa: B018 (which whitens all of them)
            alone = largest_class(problem)
            phase = self._tried(f"choice of {name}", problem.data.num_classes, lambda: condenser.init(alone))
            chosen = self._real_images(problem.data.num_classes * problem.ipc)
            yield replace(phase, set_bytes=chosen.images.nbytes + chosen.labels.nbytes)
            return Made(problem, state, chosen)
        if resolved.run.precision != "fp32" and method.iterations:
            yield self._tried("distillation", 1, lambda: precision_cosine(condenser, problem))
        phase = self._tried("distillation", 1, lambda: state.update(condenser.init(problem)))
        of_set = 0 if isinstance(method, DecoupledConfig) else bytes_of(condenser.distilled(state, problem))
        yield replace(phase, set_bytes=of_set)
        if method.iterations:
            condenser.fill(state)
            numbers = count()

            def step() -> None:
                condenser.step(state, problem, next(numbers))

            phase = self._tried("distillation", method.iterations, step, first=step)
            yield replace(phase, state_bytes=sum(tensor.nbytes for tensor in state.values()))
        if isinstance(method, DecoupledConfig):
            labelled, phase = self._labelled(name, method, problem, state)
            yield phase
            return Made(problem, state, labelled, phase)
        return Made(problem, state, training_set(condenser.distilled(state, problem)))

    def _labelled(
        self, name: str, method: DecoupledConfig, problem: Problem, state: State
    ) -> tuple[TrainingSet, Phase]:
        """The set, and how it got its labels. Of those that come by epochs one is made, and stands for all.

        Raises ConfigError for labels that are not finite.
        """
        made: deque[DistilledSet] = deque(maxlen=1)
        condenser = METHODS[name](method.model_copy(update={"label_epochs": 1}))

        def label() -> None:
            made.clear()
            try:
                made.append(condenser.distilled(state, problem))
            except NumericsError as error:
                raise ConfigError(f"the run would not get to its end. In its rehearsal, {error}") from error

        phase = self._tried("labels", method.label_epochs, label)
        (found,) = made
        if found.store is None:
            phase = replace(phase, units=1)
        else:
            found = replace(found, store=found.store.repeated(method.label_epochs))
        return training_set(found), replace(phase, set_bytes=bytes_of(found))

    def _provided(self, resolved: Resolved) -> Generator[Phase, None, tuple[MethodConfig, Problem]]:
        """As `provide.provide` does it; and the method's configuration, with one expert where others stand in.

        These all say the same, so a start that looks for an expert which knows an image would ask them all, in vain.
        What many experts say at the start is little beside their training. Networks that score real images are tried
        here too, and random images stand for those with the best scores.
        """
        problem, method, needs = self._problem, resolved.method, METHODS[resolved.run.method].needs
        held: Trajectories
        if Need.EXPERTS in needs:
            assert isinstance(method, ExpertConfig)
            plan, missing = method.expert_plan(resolved.run.dsa), provide.missing_experts(resolved, problem)
            if missing:
                yield self._training("experts", plan, len(missing))
                method = method.model_copy(update={"num_experts": 1})
            held = NearbyExperts(problem.network) if missing else provide.open_store(resolved, problem)
            problem = replace(problem, experts=held)
        if Need.TEACHER in needs:
            assert isinstance(method, TeacherConfig)
            kept, file = provide.held_teacher(resolved, problem), provide.teacher_file(resolved, problem)
            if kept is None and file not in self._taught:
                yield self._training("teacher", method.teacher_plan(resolved.run.dsa), 1)
                self._taught.add(file)
            problem = replace(problem, teacher=kept[0] if kept else problem.network.init(0, "rehearsal"))
        if Need.POOL in needs:
            assert isinstance(method, DecoupledConfig)
            teachers = []
            for squeezed, index in provide.pool_plans(resolved, problem.data):
                found = provide.held_in_pool(resolved, problem, squeezed, index)
                file = provide.pool_file(resolved, problem, squeezed, index)
                if found is None and file not in self._taught:
                    yield self._squeezing("teachers", squeezed, squeezed.epochs)
                    self._taught.add(file)
                teachers.append(found[0] if found else self._stand_in(squeezed))
            problem = replace(problem, pool=tuple(teachers))
        if isinstance(method, KDSubsetConfig) and method.score != "random":
            like_the_first, *_ = method.plans(resolved.run.dsa)
            yield self._squeezing("scores", like_the_first, method.score_networks * method.score_epochs)
            method = method.model_copy(update={"score": "random"})
        return method, problem

    def _squeezing(self, name: str, plan: SqueezePlan, epochs: int) -> Phase:
        """Of networks for so many epochs in all. A unit is a batch."""
        problem, train = self._problem, self._problem.data.train
        problem.inputs  # noqa: B018 (which whitens all of them)
        batch, once = min(plan.batch, len(train)), plan.model_copy(update={"epochs": 1})
        part = Split(train.images[:batch], train.labels[:batch])
        inputs, classes = Inputs(part, problem.preprocessing), problem.data.num_classes

        def train_on_a_batch() -> None:
            deque(squeeze(once, inputs, part.labels, classes=classes, seed=problem.seed, index=0), maxlen=0)

        return self._tried(name, epochs * math.ceil(len(train) / batch), train_on_a_batch)

    def _stand_in(self, plan: SqueezePlan) -> Teacher:
        """In place of a teacher: the network as it starts, with the statistics that a few images have in it."""
        data, few = self._problem.data, self._real_images(FEW).images
        module = self._untrained(plan.network).to(few)
        with isolated(0, "rehearsal"), torch.no_grad():  # some networks have dropout
            for norm in batch_norms(module):
                norm.momentum = None  # statistics are the mean of all batches', and there is one
            module.train()(few)
        return Teacher(plan.network, module, 1 / data.num_classes if len(data.validation) else None)

    def _untrained(self, spec: str) -> nn.Module:
        data = self._problem.data
        with isolated(0, "rehearsal"):
            return create(spec, channels=data.channels, size=data.size, classes=data.num_classes)

    def _training(self, name: str, plan: ExpertPlan, networks: int) -> Phase:
        """Of networks on the real images. A unit is a batch; the first time the last, smaller one of an epoch too."""
        problem, train = self._problem, self._problem.data.train
        problem.inputs  # noqa: B018 (which whitens all of them)
        batch, once = min(plan.batch, len(train)), plan.model_copy(update={"epochs": 1, "curriculum": None})
        numbers = count()

        def train_on(images: int) -> None:
            part = Split(train.images[:images], train.labels[:images])
            inputs, seed, index = Inputs(part, problem.preprocessing), problem.seed, next(numbers)
            deque(train_expert(problem.network, inputs, part.labels, once, seed=seed, index=index), maxlen=0)

        units = plan.epochs_for(networks) * math.ceil(len(train) / batch)
        last = len(train) % batch
        return self._tried(name, units, lambda: train_on(batch), first=lambda: train_on(batch + last))

    def _evaluation(
        self, title: str, training: TrainingSet, network: str, protocol: Protocol, test: Split, repeats: int | None
    ) -> Iterator[Phase]:
        """Units are updates, and batches of test images; UPDATES and one are tried."""
        ticks = [self._now()]
        made = self._comparison.evaluate(
            training,
            _first(self._comparison.test, TEST_BATCH),
            network,
            protocol=protocol.at_first_rate(),
            n=1,
            updates=UPDATES,
            poll=lambda: ticks.append(self._now()),
        )
        end, peak = self._now(), self._peak()
        update = median(after - before for before, after in pairwise(ticks))
        compiling = max(0.0, ticks[-1] - ticks[0] - UPDATES * update) if made.compiled else 0.0
        repeats = repeats or protocol.networks
        pilots = len(protocol.rates(training.lr)) if protocol.lrs else 0
        updates = (repeats + pilots) * training.updates(protocol, self._untrained(network))
        tests = repeats * _batches(test) + pilots * _batches(self._problem.data.validation)
        yield Phase(title, updates, update, compiling, peak)
        yield Phase(title, tests, end - ticks[-1], 0.0, peak)

    def _real_images(self, count: int) -> TrainingSet:
        train = self._problem.data.train
        return TrainingSet(self._problem.preprocessing(train.images[:count]), train.labels[:count])

    def _tried(
        self, name: str, units: int, unit: Callable[[], object], first: Callable[[], object] | None = None
    ) -> Phase:
        """One unit at least, and as many more as there are in TRY_SECONDS; `first` before them is not timed."""
        starting = 0.0 if first is None else self._seconds(first)
        times = [self._seconds(unit)]
        while len(times) < units and sum(times) < TRY_SECONDS:
            times.append(self._seconds(unit))
        seconds = median(times)
        compiling = max(0.0, starting - seconds) if self._problem.network.compiled else 0.0
        return Phase(name, units, seconds, compiling, self._peak())

    def _seconds(self, what: Callable[[], object]) -> float:
        start = self._now()
        with suppress(NumericsError):  # stand-ins may lead anywhere, and the memory was taken by then
            what()
        return self._now() - start

    def _now(self) -> float:
        """The time, once the device has done all that it was given."""
        if self._problem.device.type == "cuda":
            torch.cuda.synchronize(self._problem.device)
        return time.perf_counter()

    def _peak(self) -> int:
        return Meter(self._problem.device).read().peak_bytes


def bytes_of(made: DistilledSet) -> int:
    """What the images and labels of a set take in its files."""
    tensors = [tensor for tensor in (made.images, made.labels, made.compensators) if tensor is not None]
    store = {} if made.store is None else made.store.tensors()
    in_store = sum(STORE_TYPES[name].itemsize * tensor.numel() for name, tensor in store.items())
    return sum(tensor.nbytes for tensor in tensors) + in_store


def _first(images: TestSet, count: int) -> TestSet:
    return replace(images, images=images.images[:count], labels=images.labels[:count])


def _batches(split: Split) -> int:
    return math.ceil(len(split) / TEST_BATCH)


def largest_class(problem: Problem) -> Problem:
    """The problem of the class with the most images alone."""
    data, rows = problem.data, max(problem.members, key=len)
    train = Split(data.train.images[rows], torch.zeros_like(data.train.labels[rows]))
    return replace(problem, data=replace(data, train=train, classes=data.classes[:1]))


def main() -> None:
    """Rehearse what stdin says."""
    given, report = json.load(sys.stdin), sys.stdout

    def say(**line: object) -> None:
        print(json.dumps(line), file=report, flush=True)

    with redirect_stdout(sys.stderr):  # whatever else is said
        try:
            resolved = read_resolved(given["values"], "the run that is rehearsed")
            problem = provide.build_problem(resolved.run, provide.load_run_data(resolved))
            rehearsal = Rehearsal(resolved, problem)
            for phase in rehearsal.whole() if given["whole"] else rehearsal.making(resolved):
                say(phase=asdict(phase))
        except CondenseError as error:
            say(error=str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            say(out_of_memory=str(error).splitlines()[0])


def is_out_of_memory(error: Exception) -> bool:
    """Torch has a type of its own for this on accelerators, and only words for it on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
