"""The contract of a condenser, and the registry.

A condenser is given a `Problem` (real data, network, experts, randomness by address) and keeps all that changes in a
`State`. It never sees the loop, the run folder, a tracker or the evaluator.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from condense import rng
from condense.augment import DSA
from condense.data import Inputs, Preprocessing, RealData
from condense.errors import ConfigError, NumericsError, unknown
from condense.experts import ExpertPlan
from condense.files import AbsolutePath
from condense.networks import Network, canonical
from condense.synthetic import DistilledSet, State, class_members, sample_per_class
from condense.teachers import Teacher

Metrics = dict[str, float]
ANY_SIZE = 4096
"""Image side with which a network is checked before the data are known; what their size forbids is found with them."""


def _known(spec: str) -> str:
    canonical(spec, channels=3, size=ANY_SIZE, classes=10)
    return spec


NetworkSpec = Annotated[str, AfterValidator(_known)]
MOST_NAMES = 100


def _names(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) > MOST_NAMES:
        raise ConfigError(f"a list of {len(value)} names; {MOST_NAMES} are the most")
    return (value,) if isinstance(value, str) else value


Names = BeforeValidator(_names)
"""One name is a list of one."""
BATCH = 1024
"""Images that are judged or embedded at a time, where nothing is learned."""


class Need(Enum):
    """What a condenser asks the loop to provide."""

    EXPERTS = "experts"  # problem.experts: a store of trajectories, trained as config.expert_plan says
    TEACHER = "teacher"  # problem.teacher: parameters of one network trained on the real data
    POOL = "pool"  # problem.pool: networks of any kind trained on the real data, as config.plans says
    EMBEDDING = "embedding"  # problem.network ends in a Linear layer, whose input is the embedding


class MethodConfig(BaseModel):
    """Hyper-parameters of a condenser, under the names the field uses. Unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    iterations: int = Field(0, ge=0, description="updates of the synthetic set")

    def passes(self, classes: int, ipc: int) -> float:  # noqa: ARG002
        """Images that pass through the network, forward and backward, in one iteration; forward alone is a third."""
        return 0

    def real_per_class(self, ipc: int, classes: int) -> int:  # noqa: ARG002
        """Real training images that each class must have."""
        return ipc

    def misfits(self, ipc: int, classes: int, validation: int) -> list[str]:  # noqa: ARG002
        """What is wrong with this configuration for so many images per class, classes and held-out images."""
        return []

    def idle(self, where: str, *keys: str) -> list[str]:
        """What is wrong with keys that do nothing `where` the others are so: those that are not at their defaults."""
        defaults = {key: type(self).model_fields[key].default for key in keys}
        return [
            f"{key} = {getattr(self, key)!r} does nothing where {where}: leave it out, or give its default, {default!r}"
            for key, default in defaults.items()
            if getattr(self, key) != default
        ]

    @property
    def cells(self) -> int:
        """Images to train on in each stored one."""
        return 1

    unit: ClassVar[str] = ""
    """What the work of an iteration comes apart into, if it does, and the keys that set how many they are."""

    def units(self, ipc: int, classes: int) -> int:  # noqa: ARG002
        """How many of these there are: as many processes at most can share an iteration."""
        return 0


class Share(Protocol):
    """What this process does of an iteration, whose work several may share."""

    def mine(self, count: int) -> range:
        """Those of the units 0 .. count - 1 of the work that are this process's."""
        ...

    def total(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each tensor summed over the processes, the same bits in all of them. Nothing has changed yet if it raises."""
        ...


class Alone:
    """The share of a process that does everything."""

    def mine(self, count: int) -> range:
        return range(count)

    def total(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(parts)


ALONE = Alone()


Watch = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""From the name of a part of the work and its number of steps to what is to be called after each; may raise to stop."""


def unwatched(what: str, steps: int) -> AbstractContextManager[Callable[[], None]]:  # noqa: ARG001 (a Watch)
    """Nobody looks, and nobody stops."""
    return nullcontext(lambda: None)


class Trajectories(Protocol):
    """Of experts, as a `TrajectoryStore` holds them."""

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """theta [P] of an expert after `epoch` epochs, as memory of its own."""
        ...


@dataclass(frozen=True)
class Problem:
    """What a condenser may know. `augmentation` is the DSA of the data set; `teacher` a flat parameter vector [P].

    The pool are teachers of whatever networks; with running statistics, where they have batch norm. `watch` is for work
    that takes long outside of `step`: it shows how much is done, and obeys a stop between two steps. Whatever is a sum
    over independent units a method takes over those of `work`, and adds up with the other processes'; it draws for all.
    """

    data: RealData
    preprocessing: Preprocessing
    network: Network
    augmentation: DSA
    ipc: int
    seed: int
    experts: Trajectories | None = None
    teacher: Tensor | None = None
    pool: tuple[Teacher, ...] = ()
    watch: Watch = unwatched
    work: Share = ALONE

    @property
    def device(self) -> torch.device:
        return self.data.train.images.device

    @property
    def trained(self) -> dict[str, Tensor]:
        """What the networks hold that were trained for this problem, experts apart, in words."""
        held = {} if self.teacher is None else {"teacher": self.teacher}
        return held | {
            f"{name} of teacher {number} ({teacher.name})": tensor
            for number, teacher in enumerate(self.pool)
            for name, tensor in teacher.state().items()
        }

    @cached_property
    def inputs(self) -> Inputs:
        """The real training images as the network sees them."""
        return Inputs(self.data.train, self.preprocessing)

    @cached_property
    def members(self) -> list[Tensor]:
        """The row numbers of each class's training images."""
        return class_members(self.data.train.labels, self.data.num_classes)

    def rng(self, stream: str, iteration: int = 0) -> torch.Generator:
        """The generator of the draw (seed, stream, iteration)."""
        return rng.generator(self.seed, stream, iteration)

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """Logits [n, classes] of any number of images, as the network sees them; without a graph."""
        with torch.no_grad():
            return torch.cat([self.network.logits(theta, batch) for batch in images.split(BATCH)])

    def training_rows(self, steps: int, batch: int, draws: torch.Generator) -> Sequence[Tensor]:
        """Row numbers of `steps` batches of real training images; none comes again before all have come."""
        everything = torch.arange(len(self.inputs))
        batches: Sequence[Tensor] = sample_per_class([everything], steps * batch, draws).to(self.device).split(batch)
        return batches


class Condenser(Protocol):
    """One method. Stateless apart from its configuration."""

    name: ClassVar[str]
    family: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]
    needs: ClassVar[frozenset[Need]]

    def __init__(self, config: MethodConfig) -> None: ...

    def init(self, problem: Problem) -> State:
        """Every tensor that will change, at its first value."""
        ...

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:
        """One update of `state`, in place. Raises NumericsError, before anything has changed, if it is not finite."""
        ...

    def fill(self, state: State) -> None:
        """Make a state as large as any that the method comes to, in place: for rehearsals of what memory it takes."""
        ...

    def distilled(self, state: State, problem: Problem) -> DistilledSet:
        """The set as it stands, with its labels."""
        ...


class ExpertConfig(MethodConfig):
    """Base of configurations whose method needs expert trajectories."""

    buffer: AbsolutePath | None = Field(
        None, strict=False, description="folder of the expert trajectories; none: by content, in the cache"
    )
    buffer_dtype: Literal["float32", "bfloat16"] = Field("float32", description="number format of the buffer")
    num_experts: int = Field(100, ge=1, description="expert trajectories in the buffer")
    expert_lr: float = Field(0.01, gt=0, description="learning rate of expert training")
    expert_batch: int = Field(256, ge=1, description="batch size of expert training")
    expert_momentum: float = Field(0.0, ge=0, lt=1, description="momentum of expert training")

    def expert_plan(self, dsa: str) -> ExpertPlan:
        """How the experts are trained; `dsa` is the run's augmentation strategy."""
        raise NotImplementedError


class TeacherConfig(MethodConfig):
    """Base of configurations whose method needs one network trained on the real data."""

    teacher_epochs: int = Field(10, ge=1, description="epochs of the network that is trained on the real data")
    teacher_lr: float = Field(0.01, gt=0, description="its learning rate")
    teacher_momentum: float = Field(0.9, ge=0, lt=1, description="its momentum")
    teacher_batch: int = Field(256, ge=1, description="its batch size")

    def teacher_plan(self, dsa: str) -> ExpertPlan:
        """How the teacher is trained: like an expert, of which the last snapshot is kept."""
        return ExpertPlan(
            epochs=self.teacher_epochs,
            lr=self.teacher_lr,
            batch=self.teacher_batch,
            momentum=self.teacher_momentum,
            dsa=dsa,
        )


def not_finite(tensors: Mapping[str, Tensor | None]) -> list[str]:
    """The names of those with a value that is NaN or infinite.

    All are reduced before the one look at the result, which is the only wait for the device.
    """
    named = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if not named:
        return []
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in named.values()])
    return [] if bool(finite.all()) else [name for name, ok in zip(named, finite.tolist(), strict=True) if not ok]


def check_finite(
    method: str, iteration: int, tensors: Mapping[str, Tensor | None], sources: Callable[[], Mapping[str, Tensor]]
) -> None:
    """Raise NumericsError naming method, iteration and tensors if any value is NaN or infinite.

    `sources` gives what the tensors were computed from. It is asked only then, to name where it began.
    """
    if bad := not_finite(tensors):
        began = not_finite(sources())
        raise NumericsError(
            f"{method}, iteration {iteration}: {' and '.join(bad)} not finite"
            + (f", as {' and '.join(began)} already" if began else "")
            + ". The set was not changed by this iteration, and the last checkpoint stands. "
            f"Start a new run with lower learning rates (`condense ls keys {method}`)"
        )


METHODS: dict[str, type[Condenser]] = {}


def register(cls: type[Condenser]) -> type[Condenser]:
    """Class decorator: make a condenser known by its name."""
    assert cls.name not in METHODS, cls.name
    METHODS[cls.name] = cls
    return cls


def get_method(name: str) -> type[Condenser]:
    """The condenser of this name. Raises ConfigError with the closest names."""
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    return METHODS[name]


def list_methods() -> list[str]:
    """The names of all condensers and baselines."""
    return sorted(METHODS)
