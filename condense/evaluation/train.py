"""The evaluator: train fresh networks on a set, test each once, keep every value."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from condense.errors import ConfigError, DataError
from condense.evaluation.augmentation import Augment, Mix, augmentation, mixing
from condense.evaluation.batches import drawn, replayed
from condense.evaluation.fresh import NetworkLike, compiled_network, fresh_networks
from condense.evaluation.protocols import Protocol
from condense.evaluation.sets import TestSet, TrainingSet
from condense.evaluation.statistics import summary
from condense.networks import CompiledNetwork, images_per_epoch
from condense.rng import isolated

STORED = "store"
"""The augmentation of an evaluation whose views were those of the set's store."""


@dataclass(frozen=True)
class Pilot:
    """A learning rate, and the validation accuracy (fraction) of the one network that tried it."""

    lr: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies (fractions) of `n` fresh networks at the end of their training, and how they were trained.

    `values[k]` belongs to network k, so two evaluations with one seed, network and protocol can be compared in pairs.
    `mean` and `ci95` are over the values: Student's t, half width, None for one network. `diverged` of the networks
    ended with a loss that is not finite; their accuracy counts as it is. `epochs` is None where the protocol counts
    updates; where the set's label store was played back, it is the store's, and `augmentation` is "store". `updates`
    are the optimiser's steps of each network, None in records that are older than the key. `pilots` are the candidates
    among which a protocol chose `lr`. `compiled` says that their gradients were. `seconds` is the wall time, with that
    of the pilots.
    """

    network: str
    protocol: str
    n: int
    mean: float
    ci95: float | None
    values: tuple[float, ...]
    lr: float
    epochs: int | None
    augmentation: str
    diverged: int
    seed: int
    seconds: float = field(compare=False)
    updates: int | None = None
    pilots: tuple[Pilot, ...] = ()
    compiled: bool = False


class Trained(NamedTuple):
    """The loss of a network's last batch (a tensor: nothing waits for it), and the number of its updates."""

    loss: Tensor
    updates: int


def train_network(
    model: nn.Module,
    training: TrainingSet,
    protocol: Protocol,
    *,
    lr: float,
    augment: Augment,
    seed: int,
    index: int,
    mix: Mix | None = None,
    compiled: CompiledNetwork | None = None,
    stream: str = "evaluation",
    updates: int | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Trained:
    """Train `model` in place by the protocol. `compiled` is the same network, to take the gradients with.

    It ends after so many `updates`, if they are given. `poll` is called after each, and may raise to stop.

    Batches are those of the set's store where the protocol plays it back, with the gradients of its groups summed up;
    otherwise they are `drawn`, and for networks with batch norm a last batch of one image is left out.
    """
    model.train()
    theta = nn.Parameter(parameters_to_vector(model.parameters()).detach())
    optimizer = _optimizer(model.parameters() if compiled is None else [theta], protocol, lr)
    updates = training.updates(protocol, model) if updates is None else updates
    store, protocol = training.played(protocol), training.plan(protocol)
    if store is not None:
        assert protocol.temperature is not None
        batches = replayed(training, store, protocol.temperature)
    else:
        n = images_per_epoch(model, len(training), protocol.batch)
        batches = drawn(training, protocol, augment, mix, images=n, seed=seed, stream=stream, index=index)
    step, loss = 0, torch.tensor(torch.nan)
    for epoch, parts in islice(batches, updates):
        for group in optimizer.param_groups:
            group["lr"] = protocol.rate(lr, epoch, step)
        optimizer.zero_grad()
        if compiled is None:
            losses = []
            for part in parts:
                losses.append(part.loss(model(part.images), part.targets))
                losses[-1].backward()
            loss = torch.stack(losses).detach().sum()
        else:
            (part,) = parts
            theta.grad, logits = compiled.gradient(theta, part.images, part.targets)
            loss = part.loss(logits, part.targets)
        optimizer.step()
        step += 1
        poll()
    if compiled is not None:
        vector_to_parameters(theta.detach(), model.parameters())
    return Trained(loss.detach(), step)


def _optimizer(parameters: Iterable[nn.Parameter], protocol: Protocol, lr: float) -> torch.optim.Optimizer:
    decay, momentum = protocol.weight_decay, protocol.momentum
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=decay)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)


class Trial(NamedTuple):
    """One network of an evaluation: its number among the counted ones or the pilots, and its learning rate."""

    stream: Literal["evaluation", "evaluation.pilot"]
    number: int
    lr: float


class Outcome(NamedTuple):
    """Its accuracy (fraction), on the validation set for a pilot, whether its last loss was finite, and its updates."""

    accuracy: float
    finite: bool
    updates: int


Attempt = Callable[[Sequence[Trial]], Iterable[Outcome]]
"""What trains and tests networks that are independent of one another, and gives their outcomes in order."""


class Examiner:
    """Trains and tests single networks, as `evaluate` describes."""

    def __init__(
        self,
        training: TrainingSet,
        test: TestSet,
        network: NetworkLike,
        *,
        classes: int,
        protocol: Protocol,
        dsa: str,
        seed: int,
        device: torch.device,
        validation: TestSet | None = None,
        updates: int | None = None,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        training.check("training set", classes)
        judge = _judge(validation, protocol)
        for what, held in (("test", test), *([] if judge is None else [("validation", judge)])):
            held.check(f"{what} set", classes)
            if training.images.shape[1:] != held.images.shape[1:]:
                raise DataError(
                    f"training images are {list(training.images.shape[1:])} and {what} images "
                    f"{list(held.images.shape[1:])}; both must have the same channels and size."
                )
        (strategy, self._augment), self._mix = augmentation(protocol, dsa), mixing(protocol, classes)
        self.strategy = strategy if training.played(protocol) is None else STORED
        self._protocol, self._seed, self._device, self._updates, self._poll = protocol, seed, device, updates, poll
        self._training, self._test = training.to(device), test.to(device)
        self._judge = None if judge is None else judge.to(device)
        self.name, self._make = fresh_networks(network, self._training, classes)
        self.compiled = compiled_network(network, self._training, classes, protocol, device)

    def __call__(self, trial: Trial) -> Outcome:
        with isolated(self._seed, f"{trial.stream}.network", trial.number):  # the training too: of dropout
            model = self._make().to(self._device)
            loss, made = train_network(
                model,
                self._training,
                self._protocol,
                lr=trial.lr,
                augment=self._augment,
                seed=self._seed,
                index=trial.number,
                mix=self._mix,
                compiled=self.compiled,
                stream=trial.stream,
                updates=self._updates,
                poll=self._poll,
            )
        judge = self._test if trial.stream == "evaluation" else self._judge
        assert judge is not None, "a protocol without a choice has no pilots"
        return Outcome(judge.accuracy(model.eval()), bool(loss.isfinite()), made)


def evaluate(
    training: TrainingSet,
    test: TestSet,
    network: NetworkLike,
    *,
    classes: int,
    protocol: Protocol,
    dsa: str,
    seed: int,
    device: torch.device,
    validation: TestSet | None = None,
    n: int | None = None,
    updates: int | None = None,
    poll: Callable[[], None] = lambda: None,
    attempt: Attempt | None = None,
) -> Evaluation:
    """Train `n` fresh networks (default: the protocol's number) on `training`; read `test` once for each, at the end.

    `network` is a spec of condense.networks, or a function that makes a network; `dsa` the DSA strategy of the run, for
    protocols that augment with DSA and, by its flip, for whether images may be mirrored; for a whole real set give
    `protocol.on_full_data()`. `validation` is read by protocols that choose the learning rate, and by nothing else:
    once by each pilot, a network that tries a candidate. The pilots start and are trained alike.

    Initial weights, order and augmentation of network k depend on (seed, k) and the sizes alone: neither on the set,
    nor on n, nor on the pilots, whose draws have addresses of their own. The global random state is left as it was.
    `updates` of each network, where they are not to be those of the protocol: to see what they take. `poll` is called
    after every update, and may raise to stop. `attempt` is what trains and tests the networks, where it is not this
    process, one after the other.

    Raises ConfigError for an unknown or wrong network, n < 1, or no validation images where they are needed; DataError
    for images, labels or a learned learning rate that do not fit. Both before any training.
    """
    n = protocol.networks if n is None else n
    if n < 1:
        raise ConfigError(f"{n} networks to evaluate on; at least 1 is needed.")
    examiner = Examiner(
        training,
        test,
        network,
        classes=classes,
        protocol=protocol,
        dsa=dsa,
        seed=seed,
        device=device,
        validation=validation,
        updates=updates,
        poll=poll,
    )
    attempt = attempt or partial(map, examiner)
    start = time.perf_counter()
    pilots: list[Pilot] = []
    lr, *others = protocol.rates(training.lr)
    if protocol.lrs:
        tried = attempt([Trial("evaluation.pilot", 0, rate) for rate in (lr, *others)])
        pilots = [Pilot(rate, made.accuracy) for rate, made in zip((lr, *others), tried, strict=True)]
        lr = max(pilots, key=lambda pilot: pilot.accuracy).lr  # of equals the first, which is the lowest
    outcomes = list(attempt([Trial("evaluation", k, lr) for k in range(n)]))
    values = tuple(made.accuracy for made in outcomes)
    mean, ci95 = summary(values)
    return Evaluation(
        network=examiner.name,
        protocol=protocol.name,
        n=n,
        mean=mean,
        ci95=ci95,
        values=values,
        lr=lr,
        epochs=training.plan(protocol).epochs,
        augmentation=examiner.strategy,
        diverged=sum(not made.finite for made in outcomes),
        seed=seed,
        seconds=time.perf_counter() - start,
        updates=outcomes[-1].updates,
        pilots=tuple(pilots),
        compiled=examiner.compiled is not None,
    )


def _judge(validation: TestSet | None, protocol: Protocol) -> TestSet | None:
    """The validation set if the protocol chooses something. Raises ConfigError if it does and there is none."""
    if not protocol.lrs:
        return None
    if validation is None or not len(validation):
        raise ConfigError(NO_VALIDATION.format(protocol.name))
    return validation


NO_VALIDATION = (
    "protocol {!r} chooses the learning rate on a validation split, and there is none. Set validation above 0, or "
    "choose another protocol"
)
