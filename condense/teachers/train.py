"""Training one teacher on real data: "squeeze", the first phase of the decoupled methods.

SRe2L: Yin, Xing and Shen, "Squeeze, Recover and Relabel", NeurIPS 2023, arXiv 2306.13092.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from condense import rng
from condense.augment import crop_flip
from condense.data.inputs import Inputs
from condense.errors import NumericsError
from condense.networks import create, images_per_epoch


class SqueezePlan(BaseModel):
    """How a teacher is trained. Two teachers with the same plan, data, seed and index are the same bits.

    `network` is a spec of condense.networks. The optimiser is SGD with `momentum`, or Adam with `momentum` for beta_1
    and beta_2 = 0.999; `weight_decay` is added to the gradient, for all parameters. The learning rate of epoch e = 0,
    1, ... is lr/2 (1 + cos(pi e / epochs)). Images are shifted by up to an eighth of their side, and half of them
    mirrored if they are to be `mirrored` (`condense.augment.crop_flip`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    epochs: int = Field(ge=1)
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    batch: int = Field(ge=2)
    mirrored: bool

    def lr_of(self, epoch: int) -> float:
        """The learning rate in an epoch."""
        return self.lr / 2 * (1 + math.cos(math.pi * epoch / self.epochs))


def squeeze(
    plan: SqueezePlan,
    inputs: Inputs,
    labels: Tensor,
    *,
    classes: int,
    seed: int,
    index: int,
    watch: Callable[[Tensor, Tensor], object] = lambda rows, logits: None,  # noqa: ARG005 (nobody watches)
) -> Iterator[nn.Module]:
    """Yield the network after each epoch, where the data is: one and the same module, which the next epoch changes.

    One shuffled pass per epoch over `inputs` and their `labels` [n]; the last partial batch is kept, unless it is one
    image and the network has batch norm. Each epoch sets the module to training mode, so it may be tested in between.
    Every draw has an address, dropout's too, so teacher `index` does not depend on the teachers before it. For each
    batch `watch` is given its row numbers and its logits [b, classes], without a graph, before they change the network.

    Raises:
        ConfigError: a network that does not exist or does not take such images.
        DataError: a single image, and batch norm.
        NumericsError: parameters or running statistics that are not finite after an epoch.
    """
    example = inputs[torch.zeros(1, dtype=torch.int64)]
    with rng.isolated(seed, "squeeze.init", index):
        module = create(plan.network, channels=example.shape[1], size=example.shape[2], classes=classes)
    module.to(example)
    n = images_per_epoch(module, len(inputs), plan.batch)
    optimizer = _optimizer(module.parameters(), plan)
    for epoch in range(plan.epochs):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_of(epoch)
        draws = rng.generator(seed, f"squeeze.{index}.epoch", epoch)
        order = torch.randperm(len(inputs), generator=draws)[:n].to(example.device)
        module.train()
        with rng.isolated(seed, f"squeeze.{index}.dropout", epoch):
            for rows in order.split(plan.batch):
                x = crop_flip(inputs[rows], draws, mirrored=plan.mirrored)
                logits = module(x)
                watch(rows, logits.detach())
                loss = F.cross_entropy(logits, labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if not bool(torch.stack([tensor.isfinite().all() for tensor in module.state_dict().values()]).all()):
            raise NumericsError(
                f"teacher {index} ({plan.network}), epoch {epoch + 1}: parameters or running statistics are not "
                f"finite. Nothing of it is kept. Lower its learning rate, which is {plan.lr}"
            )
        yield module


def _optimizer(parameters: Iterable[nn.Parameter], plan: SqueezePlan) -> torch.optim.Optimizer:
    if plan.optimizer == "adam":
        betas = (plan.momentum, 0.999)
        return torch.optim.Adam(parameters, lr=plan.lr, betas=betas, weight_decay=plan.weight_decay)
    return torch.optim.SGD(parameters, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay)
