"""The evaluator: train fresh networks on a set, test each once, keep every value."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.augment import DSA
from condense.augment.dc import crop_scale_rotate
from condense.errors import ConfigError, DataError
from condense.evaluation.protocols import Protocol
from condense.evaluation.sets import TestSet, TrainingSet
from condense.evaluation.statistics import summary
from condense.networks import canonical, create
from condense.rng import generator, isolated

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies (fractions) of `n` fresh networks after their last epoch, and how they were trained.

    `values[k]` belongs to network k, so two evaluations with one seed, network and protocol can be compared in pairs.
    `mean` and `ci95` are over the values: Student's t, half width, None for one network. `diverged` of the networks
    ended with a loss that is not finite; their accuracy counts as it is. `seconds` is the wall time.
    """

    network: str
    protocol: str
    n: int
    mean: float
    ci95: float | None
    values: tuple[float, ...]
    lr: float
    epochs: int
    augmentation: str
    diverged: int
    seed: int
    seconds: float = field(compare=False)


def train_network(
    model: nn.Module,
    training: TrainingSet,
    protocol: Protocol,
    *,
    lr: float,
    augment: Augment,
    seed: int,
    index: int,
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """Train `model` in place by the protocol and return the loss of its last batch (a tensor: nothing waits for it).

    The order of epoch e and the augmentation of step i have addresses of (seed, index, e) and (seed, index, i) alone.
    Batch norm has no variance over one image: for networks that have it a last batch of one image is left out.
    """
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=protocol.momentum, weight_decay=protocol.weight_decay
    )
    n, step, loss = len(training), 0, torch.tensor(torch.nan)
    if n % protocol.batch == 1 and _has_batch_norm(model):
        if n == 1:
            raise DataError("a network with batch norm cannot be trained on a single image.")
        n -= 1
    for epoch in range(protocol.epochs):
        if epoch == protocol.decay_epoch:
            for group in optimizer.param_groups:
                group["lr"] *= protocol.decay_factor
        order = torch.randperm(len(training), generator=generator(seed, f"evaluation.order.{index}", epoch))
        for batch in torch.split(order[:n].to(training.images.device), protocol.batch):
            images = training.preprocess(training.images[batch])
            images = augment(images, generator(seed, f"evaluation.augment.{index}", step))
            loss = F.cross_entropy(model(images), training.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        poll()
    return loss.detach()


def evaluate(
    training: TrainingSet,
    test: TestSet,
    network: str,
    *,
    classes: int,
    protocol: Protocol,
    dsa: str,
    seed: int,
    device: torch.device,
    n: int | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Train `n` fresh networks (default: the protocol's number) on `training`; read `test` once for each, at the end.

    `network` is a spec of condense.networks; `dsa` the DSA strategy of the run, for protocols that augment with DSA;
    for a whole real set give `protocol.on_full_data()`. Initial weights, order and augmentation of network k depend on
    (seed, k) and the sizes alone: neither on the set, nor on n. The global random state is left as it was. `poll` is
    called after every epoch, and may raise to stop.

    Raises ConfigError for an unknown network or n < 1; DataError for images, labels or a learned learning rate that
    do not fit, before any training.
    """
    n = protocol.networks if n is None else n
    if n < 1:
        raise ConfigError(f"{n} networks to evaluate on; at least 1 is needed.")
    training.check("training set", classes)
    test.check("test set", classes)
    if training.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"training images are {list(training.images.shape[1:])} and test images {list(test.images.shape[1:])}; "
            "both must have the same channels and size."
        )
    channels, size = training.images.shape[1:3]
    lr = training.lr if protocol.learned_lr and training.lr is not None else protocol.lr
    strategy, augment = _augmentation(protocol, dsa)
    name = canonical(network, channels=channels, size=size, classes=classes)

    start = time.perf_counter()
    training, test = training.to(device), test.to(device)
    values, diverged = [], 0
    for k in range(n):
        with isolated(seed, "evaluation.network", k):  # the training as well: some networks have dropout
            model = create(network, channels=channels, size=size, classes=classes).to(device)
            loss = train_network(model, training, protocol, lr=lr, augment=augment, seed=seed, index=k, poll=poll)
        diverged += not bool(loss.isfinite())
        values.append(test.accuracy(model.eval()))
    mean, ci95 = summary(values)
    return Evaluation(
        network=name,
        protocol=protocol.name,
        n=n,
        mean=mean,
        ci95=ci95,
        values=tuple(values),
        lr=lr,
        epochs=protocol.epochs,
        augmentation=strategy,
        diverged=diverged,
        seed=seed,
        seconds=time.perf_counter() - start,
    )


def _augmentation(protocol: Protocol, dsa: str) -> tuple[str, Augment]:
    """The name that a report gives to the augmentation, and the augmentation."""
    if protocol.augmentation == "dc":
        return "dc:crop_scale_rotate", crop_scale_rotate
    strategy = dsa if protocol.augmentation == "dsa" else "none"
    return strategy, DSA(strategy).augment


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())
