"""IDC: dataset condensation via efficient synthetic-data parameterization.

Kim, Kim, Oh, Yun, Song, Jeong, Ha and Song, ICML 2022, arXiv 2205.14959. Each stored image is a mosaic of factor x
factor smaller ones (`condense.synthetic.decode`), so that a class has factor^2 ipc images. Networks theta are drawn one
after another; each is used for `inner_loop` updates of the images, and trained on real images in between:

    L = sum over classes c of D(grad CE(theta; T_c x_r(c)), grad CE(theta; T_c decode(x_s)(c)))
    images descend dL/dimages                                                        one iteration
    theta is trained on `train_images` real images with CutMix                       unless a new network follows

D sums squares ("mse") or absolute values ("l1") over the weights of convolutions alone. T_c is colour, then crop, then
cutout. The images are clamped to [0, 1] in pixel space whenever a network begins.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from condense.augment import DSA, composed, cutmix, in_turn, without_cutout
from condense.errors import ConfigError
from condense.methods.base import MethodConfig, Need, Problem, register
from condense.methods.gradient import GradientConfig, GradientMatching, train_step
from condense.methods.matching import Strategy
from condense.objectives import absolute_distance, convolutions, squared_distance
from condense.synthetic import State, clamp_to_pixels

DISTANCES = {"mse": squared_distance, "l1": absolute_distance}


class IDCConfig(GradientConfig):
    """Hyper-parameters of IDC."""

    iterations: int = Field(200000, ge=0, description="updates of the synthetic set")
    lr_img: float = Field(0.08, gt=0, description="learning rate of the images")
    factor: Literal[1, 2, 3, 4] = Field(2, description="each stored image is factor x factor smaller ones")
    batch_real: int = Field(64, ge=1, description="real images of each class in an iteration")
    batch_syn_max: int | None = Field(
        128, ge=1, description="synthetic images of each class in an iteration, drawn at random if there are more"
    )
    distance: Literal["mse", "l1"] = Field("mse", description="of the gradients by the weights of convolutions")
    inner_loop: int = Field(100, ge=1, description="image updates per network")
    train_images: int = Field(500, ge=1, description="real images that train the network between two updates")
    batch_train: int = Field(64, ge=1, description="real images in a step of the network, the last one filled up")
    lr_net: float = Field(0.01, gt=0, description="learning rate of the network")
    momentum_net: float = Field(0.9, ge=0, lt=1, description="momentum of the network")
    weight_decay_net: float = Field(5e-4, ge=0, description="weight decay of the network")
    aug_type: Strategy = Field(
        "color_crop_cutout",
        description="augmentation of matching; the network is trained with it, CutMix in place of cutout",
    )
    mix_p: float = Field(0.5, ge=0, le=1, description="probability of CutMix in a step of the network")

    @property
    def train_steps(self) -> int:
        """Steps of the network between two updates of the images."""
        return -(-self.train_images // self.batch_train)

    def passes(self, classes: int, ipc: int) -> float:
        """Matching, and the training of the network between two updates."""
        steps = self.train_steps * (self.inner_loop - 1) / self.inner_loop
        return super().passes(classes, ipc) + self.batch_train * steps


@register
class IDC(GradientMatching[IDCConfig]):
    name: ClassVar[str] = "idc"
    family: ClassVar[str] = "gradient"
    summary: ClassVar[str] = "match gradients of mosaics of small images in networks that learn from real data"
    citation: ClassVar[str] = """@inproceedings{kim2022idc,
  title = {Dataset Condensation via Efficient Synthetic-Data Parameterization},
  author = {Kim, Jang-Hyun and Kim, Jinuk and Oh, Seong Joon and Yun, Sangdoo and Song, Hwanjun and Jeong, Joonhyun
            and Ha, Jung-Woo and Song, Hyun Oh},
  booktitle = {ICML}, year = {2022}, eprint = {2205.14959}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = IDCConfig
    needs: ClassVar[frozenset[Need]] = frozenset()

    def init(self, problem: Problem) -> State:
        """The images, and the first network with its velocity. Raises ConfigError if that has no convolutions."""
        state = super().init(problem)
        self.begin(state, problem, 0)
        if "ema" in state:
            state["ema"] = state["images"].clone()
        if not convolutions(problem.network.split(state["theta"]).values()):
            raise ConfigError(
                f"network {problem.network.name!r} has no convolutions, but idc compares only the gradients of their "
                "weights. Choose another network, such as convnet"
            )
        return state

    def begin(self, state: State, problem: Problem, number: int) -> None:
        """A new network, and the images back in the range of pixels."""
        state["theta"] = problem.network.init(problem.seed, "network", number)
        state["theta.velocity"] = torch.zeros_like(state["theta"])
        state["images"] = clamp_to_pixels(state["images"], problem.preprocessing)

    def network(self, state: State, problem: Problem, iteration: int) -> Tensor:  # noqa: ARG002
        return state["theta"]

    def augmentations(self, problem: Problem) -> Sequence[DSA]:  # noqa: ARG002
        return composed(self.config.aug_type)

    def distance(self, real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
        return DISTANCES[self.config.distance](convolutions(real), convolutions(synthetic))

    def after(self, state: State, problem: Problem, iteration: int, theta: Tensor) -> None:
        """Train the network on real images, or draw the next one."""
        number, updates = divmod(iteration + 1, self.config.inner_loop)
        if updates:
            state["theta"], state["theta.velocity"] = self.train(problem, iteration, theta, state["theta.velocity"])
        else:
            self.begin(state, problem, number)

    def train(self, problem: Problem, iteration: int, theta: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """theta and velocity [P] after `train_steps` steps, each on full batches of augmented, mixed real images."""
        c, data = self.config, problem.data
        draws = problem.rng("training", iteration)
        stages = composed(without_cutout(c.aug_type) if c.mix_p else c.aug_type)
        for rows in problem.training_rows(c.train_steps, c.batch_train, draws):
            x = in_turn(stages, problem.inputs[rows], draws)
            x, y = cutmix(x, data.train.labels[rows], data.num_classes, draws, c.mix_p)
            theta, velocity = train_step(
                problem,
                theta,
                velocity,
                x,
                y,
                lr=c.lr_net,
                momentum=c.momentum_net,
                weight_decay=c.weight_decay_net,
            )
        return theta, velocity
