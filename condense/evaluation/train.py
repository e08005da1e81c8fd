"""The evaluator: train fresh networks on a set, test each once, keep every value."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

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
) -> Evaluation:
    """Train `n` fresh networks (default: the protocol's number) on `training`; read `test` once for each, at the end.

    `network` is a spec of condense.networks, or a function that makes a network; `dsa` the DSA strategy of the run, for
    protocols that augment with DSA and, by its flip, for whether images may be mirrored; for a whole real set give
    `protocol.on_full_data()`. `validation` is read by protocols that choose the learning rate, and by nothing else:
    once by each pilot, a network that tries a candidate. The pilots start and are trained alike.

    Initial weights, order and augmentation of network k depend on (seed, k) and the sizes alone: neither on the set,
    nor on n, nor on the pilots, whose draws have addresses of their own. The global random state is left as it was.
    `updates` of each network, where they are not to be those of the protocol: to see what they take. `poll` is called
    after every update, and may raise to stop.

    Raises ConfigError for an unknown or wrong network, n < 1, or no validation images where they are needed; DataError
    for images, labels or a learned learning rate that do not fit. Both before any training.
    """
    n = protocol.networks if n is None else n
    if n < 1:
        raise ConfigError(f"{n} networks to evaluate on; at least 1 is needed.")
    training.check("training set", classes)
    judge = _judge(validation, protocol)
    for what, held in (("test", test), *([] if judge is None else [("validation", judge)])):
        held.check(f"{what} set", classes)
        if training.images.shape[1:] != held.images.shape[1:]:
            raise DataError(
                f"training images are {list(training.images.shape[1:])} and {what} images "
                f"{list(held.images.shape[1:])}; both must have the same channels and size."
            )
    (strategy, augment), mix = augmentation(protocol, dsa), mixing(protocol, classes)
    if training.played(protocol) is not None:
        strategy = STORED
    training, test = training.to(device), test.to(device)
    name, make = fresh_networks(network, training, classes)
    compiled = compiled_network(network, training, classes, protocol, device)

    def trained(stream: str, k: int, lr: float) -> tuple[nn.Module, Trained]:
        with isolated(seed, f"{stream}.network", k):  # the training as well: some networks have dropout
            model = make().to(device)
            done = train_network(
                model,
                training,
                protocol,
                lr=lr,
                augment=augment,
                seed=seed,
                index=k,
                mix=mix,
                compiled=compiled,
                stream=stream,
                updates=updates,
                poll=poll,
            )
        return model.eval(), done

    start = time.perf_counter()
    pilots: list[Pilot] = []
    lr, *others = protocol.rates(training.lr)
    if judge is not None:
        judge = judge.to(device)
        pilots = [Pilot(rate, judge.accuracy(trained("evaluation.pilot", 0, rate)[0])) for rate in (lr, *others)]
        lr = max(pilots, key=lambda pilot: pilot.accuracy).lr  # of equals the first, which is the lowest
    values, diverged, made = [], 0, None
    for k in range(n):
        model, (loss, made) = trained("evaluation", k, lr)
        diverged += not bool(loss.isfinite())
        values.append(test.accuracy(model))
    mean, ci95 = summary(values)
    return Evaluation(
        network=name,
        protocol=protocol.name,
        n=n,
        mean=mean,
        ci95=ci95,
        values=tuple(values),
        lr=lr,
        epochs=training.plan(protocol).epochs,
        augmentation=strategy,
        diverged=diverged,
        seed=seed,
        seconds=time.perf_counter() - start,
        updates=made,
        pilots=tuple(pilots),
        compiled=compiled is not None,
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
