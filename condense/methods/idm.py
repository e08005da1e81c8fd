"""IDM: improved distribution matching for dataset condensation.

Zhao, Li, Qin and Yu, CVPR 2023, arXiv 2307.09742. Each stored image is a mosaic of factor x factor smaller ones
("partitioning and expansion augmentation"; E is `condense.synthetic.decode`). A queue holds up to `queue_size` networks
of all ages. One iteration, for a network theta of the queue with embedding f and training accuracy a, in percent:

    L = sum over classes c of |mean f(T_c x_r) - mean f(T_c E(x_s))|^2 + ce_weight a CE(theta; T_c E(x_s), c)
    images descend dL/dimages
    `train_nets` networks of the queue take `net_steps` steps of SGD on real images
    every `net_every` iterations a random network is appended, and the oldest may drop out
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from condense.errors import NumericsError
from condense.experts import sgd_step
from condense.methods.base import MethodConfig, Need, Problem, register
from condense.methods.matching import ClassBatch, Matching, MatchingConfig
from condense.objectives import mean_distance
from condense.synthetic import State

FIRST = 4
"""Networks in the queue at iteration 0: the three that it starts with, and the one that iteration 0 appends."""


class IDMConfig(MatchingConfig):
    """Hyper-parameters of IDM."""

    iterations: int = Field(20000, ge=0, description="updates of the synthetic set")
    lr_img: float = Field(0.2, gt=0, description="learning rate of the images")
    factor: Literal[1, 2, 3, 4] = Field(2, description="each stored image is factor x factor smaller ones")
    ce_weight: float = Field(0.5, ge=0, description="weight of the cross-entropy, for each percent of accuracy")
    queue_size: int = Field(100, ge=FIRST, description="most networks in the queue")
    net_every: int = Field(30, ge=1, description="iterations between new networks")
    train_nets: int = Field(2, ge=1, le=FIRST, description="networks trained in an iteration")
    net_steps: int = Field(10, ge=1, description="steps that each of them takes")
    net_batch: int = Field(256, ge=1, description="real images of all classes in a step")
    lr_net: float = Field(0.01, gt=0, description="learning rate of the networks")
    momentum_net: float = Field(0.9, ge=0, lt=1, description="momentum of the networks")
    weight_decay_net: float = Field(5e-4, ge=0, description="weight decay of the networks")

    def passes(self, classes: int, ipc: int) -> float:
        """Matching, with a second pass of the synthetic images for the logits; and training."""
        again = classes * self.synthetic_per_class(ipc)
        return super().passes(classes, ipc) + again + self.net_batch * self.train_nets * self.net_steps


@register
class IDM(Matching[IDMConfig]):
    """State besides the images: nets [q, P], oldest first, with nets.velocity [q, P] and nets.accuracy [q]."""

    name: ClassVar[str] = "idm"
    family: ClassVar[str] = "distribution"
    summary: ClassVar[str] = "DM with mosaics of small images, a queue of networks that are trained, and cross-entropy"
    citation: ClassVar[str] = """@inproceedings{zhao2023idm,
  title = {Improved Distribution Matching for Dataset Condensation},
  author = {Zhao, Ganlong and Li, Guanbin and Qin, Yipeng and Yu, Yizhou},
  booktitle = {CVPR}, year = {2023}, eprint = {2307.09742}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = IDMConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EMBEDDING})

    def init(self, problem: Problem) -> State:
        """The images, and the queue as iteration 0 finds it."""
        nets = torch.stack([self.new_network(problem, number) for number in range(FIRST)])
        queue = {"nets": nets, "nets.velocity": torch.zeros_like(nets), "nets.accuracy": nets.new_zeros(FIRST)}
        return super().init(problem) | queue

    def new_network(self, problem: Problem, number: int) -> Tensor:
        return problem.network.init(problem.seed, "network", number)

    def matched(self, state: State, problem: Problem, iteration: int) -> int:
        """The place in the queue of the network that this iteration matches on, drawn uniformly."""
        return int(torch.randint(len(state["nets"]), (), generator=problem.rng("matched", iteration)))

    def network(self, state: State, problem: Problem, iteration: int) -> Tensor:
        return state["nets"][self.matched(state, problem, iteration)]

    def losses(self, state: State, problem: Problem, iteration: int, theta: Tensor, batch: ClassBatch) -> Tensor:
        def embed(x: Tensor) -> Tensor:
            return problem.network.embed(theta, x)

        def both(x: Tensor) -> tuple[Tensor, Tensor]:
            return embed(x), problem.network.logits(theta, x)

        with torch.no_grad():
            target = problem.network.by_group(embed, batch.real)
        embedding, logits = problem.network.by_group(both, batch.synthetic)
        accuracy = state["nets.accuracy"][self.matched(state, problem, iteration)]
        return mean_distance(target, embedding) + self.config.ce_weight * accuracy * batch.cross_entropies(logits)

    def after(self, state: State, problem: Problem, iteration: int, theta: Tensor) -> None:  # noqa: ARG002
        """Train some networks of the queue, and append the one that the next iteration begins with."""
        draws = problem.rng("training", iteration)
        for place in torch.randperm(len(state["nets"]), generator=draws)[: self.config.train_nets].tolist():
            self.train(state, problem, iteration, place, draws)
        number, since = divmod(iteration + 1, self.config.net_every)
        if since == 0:
            self.append(state, self.new_network(problem, FIRST - 1 + number))

    def fill(self, state: State) -> None:
        """A full queue."""
        while len(state["nets"]) < self.config.queue_size:
            self.append(state, state["nets"][-1])

    def append(self, state: State, theta: Tensor) -> None:
        """A network at the end of the queue; the oldest one drops out of a full queue."""
        new = {"nets": theta, "nets.velocity": torch.zeros_like(theta), "nets.accuracy": theta.new_zeros(())}
        for name, row in new.items():
            state[name] = torch.cat([state[name][1 - self.config.queue_size :], row[None]])

    def train(self, state: State, problem: Problem, iteration: int, place: int, draws: torch.Generator) -> None:
        """`net_steps` steps of one network of the queue; its accuracy is that on their batches, before each step.

        Raises NumericsError, and leaves the queue as it was, if the network diverges.
        """
        c = self.config
        theta, velocity = state["nets"][place], state["nets.velocity"][place]
        correct = torch.zeros((), device=problem.device)
        for rows in problem.training_rows(c.net_steps, c.net_batch, draws):
            y = problem.data.train.labels[rows]
            gradient, logits = problem.network.gradient(theta, problem.inputs[rows], y)
            theta, velocity = sgd_step(
                theta, gradient, velocity, lr=c.lr_net, momentum=c.momentum_net, weight_decay=c.weight_decay_net
            )
            correct += (logits.argmax(1) == y).sum()
        if not bool(theta.isfinite().all()):
            raise NumericsError(
                f"idm, iteration {iteration}: network {place} of the queue not finite. The last checkpoint stands. "
                f"Start a new run with a lower lr_net, which is {c.lr_net}"
            )
        state["nets"][place], state["nets.velocity"][place] = theta, velocity
        state["nets.accuracy"][place] = 100 * correct / (c.net_steps * c.net_batch)
