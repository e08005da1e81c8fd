"""NCFM: dataset distillation by matching neural characteristic functions, a game of images against frequencies.

Wang et al., CVPR 2025, arXiv 2502.20653. One iteration, with f the embedding, scaled to length 1, of a network theta
between the start and the end of the training of a random expert, and Phi(t) the mean of exp(i <t, f>):

    theta = l theta_start + (1 - l) theta_end, l uniform on (0, 1)
    t = sigma_psi(z) n, z and n standard normal: a scale mixture of zero-mean normals, 16 frequencies t of each scale
    D(c) = mean over t of sqrt(alpha (|Phi_r| - |Phi_s|)^2 + 2 (1 - alpha) |Phi_r| |Phi_s| (1 - cos(angle of the two)))
    L = sum over classes c of 300 D(c) + mean CE(theta_end; T_c x_s, c)
    images descend dL/dimages, psi ascends dL/dpsi

The pixels are clamped to [0, 1] before each iteration, as in the published code.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from condense.augment import DSA, composed, without_cutout
from condense.experts import ExpertPlan
from condense.methods.base import ExpertConfig, MethodConfig, Metrics, Need, Problem, check_finite, register
from condense.methods.matching import ClassBatch, Matching, MatchingConfig, Strategy
from condense.objectives import characteristic_distance
from condense.synthetic import State, adam_, adam_moments, clamp_to_pixels, sgd_

STRENGTH = 300
PER_SCALE = 16
"""Frequencies of each scale; the paper has T / 16 components."""


class NCFMConfig(MatchingConfig, ExpertConfig):
    """Hyper-parameters of NCFM. T, the number of frequencies, is num_freqs."""

    iterations: int = Field(20000, ge=0, description="updates of the synthetic set")
    batch_real: int = Field(1024, ge=1, description="real images of each class in an iteration")
    factor: Literal[1, 2, 3, 4] = Field(
        2, description="multi-formation (IDC): each stored image is factor x factor smaller ones"
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="of the images")
    lr_img: float = Field(0.0178, gt=0, description="learning rate of the images")
    momentum_img: float = Field(0.9, ge=0, lt=1, description="momentum of the images; Adam's first beta")
    num_freqs: int = Field(1024, ge=32, multiple_of=PER_SCALE, description="frequencies in an iteration")
    alpha: float = Field(0.5, ge=0, lt=1, description="weight of the amplitudes; that of the phases is 1 - alpha")
    calib_weight: float = Field(1.0, ge=0, description="weight of the trained network's cross-entropy")
    sampling_net: bool = Field(True, description="learn the scales of the frequencies; else all are 1")
    lr_psi: float = Field(1e-3, gt=0, description="learning rate of the sampling network")
    momentum_psi: float = Field(0.5, ge=0, lt=1, description="momentum of the sampling network")
    num_experts: int = Field(20, ge=1, description="networks trained on the real data")
    aug_type: Strategy = Field(
        "color_crop_cutout", description="augmentation of matching; the experts have it with CutMix in place of cutout"
    )
    pretrain_epochs: int = Field(60, ge=1, description="epochs of their training")
    expert_batch: int = Field(128, ge=1, description="batch size of expert training")
    expert_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of expert training")

    def expert_plan(self, dsa: str) -> ExpertPlan:  # noqa: ARG002 - aug_type, whatever the run's strategy is
        """As published: the learning rate falls to a fifth at two thirds and at five sixths of the epochs."""
        return ExpertPlan(
            epochs=self.pretrain_epochs,
            lr=self.expert_lr,
            batch=self.expert_batch,
            momentum=self.expert_momentum,
            weight_decay=5e-4,
            decay_epochs=(math.ceil(self.pretrain_epochs * 2 / 3), math.ceil(self.pretrain_epochs * 5 / 6)),
            decay_factor=0.2,
            dsa=without_cutout(self.aug_type),
            composed=True,
            cutmix=0.5,
        )

    def passes(self, classes: int, ipc: int) -> float:
        """Matching, with the synthetic images in a second network for the logits."""
        again = classes * self.synthetic_per_class(ipc) if self.calib_weight else 0
        return super().passes(classes, ipc) + again


@register
class NCFM(Matching[NCFMConfig]):
    name: ClassVar[str] = "ncfm"
    family: ClassVar[str] = "distribution"
    summary: ClassVar[str] = "match the characteristic functions of each class's embeddings, at learned frequencies"
    citation: ClassVar[str] = """@inproceedings{wang2025ncfm,
  title = {Dataset Distillation with Neural Characteristic Function: A Minmax Perspective},
  author = {Wang, Shaobo and Yang, Yicun and Liu, Zhiyuan and Sun, Chenghao and Hu, Xuming and He, Conghui and
    Zhang, Linfeng},
  booktitle = {CVPR}, year = {2025}, eprint = {2502.20653}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = NCFMConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EXPERTS, Need.EMBEDDING})

    def init(self, problem: Problem) -> State:
        """The images, what Adam knows of them, and the sampling network psi with its momentum."""
        state = super().init(problem)
        if self.config.optimizer == "adam":
            state |= adam_moments(state, "images")
        if self.config.sampling_net:
            state["psi"] = initial_psi(problem.network.embedding_size, problem.rng("init.psi")).to(state["images"])
            state["psi.momentum"] = torch.zeros_like(state["psi"])
        return state

    def augmentations(self, problem: Problem) -> Sequence[DSA]:  # noqa: ARG002
        return composed(self.config.aug_type)

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:
        c = self.config
        theta, trained = self.networks(problem, iteration)
        psi = state["psi"].detach().requires_grad_() if c.sampling_net else None
        sampled = self.frequencies(psi, problem, iteration)
        frequencies = sampled.detach().requires_grad_(c.sampling_net)  # a leaf: its gradient adds up over the classes
        images = clamp_to_pixels(state["images"], problem.preprocessing)
        matching = calibration = torch.zeros((), device=problem.device)
        gradient = torch.zeros_like(images)
        for batch in self.batches(images, problem, iteration):
            distance = self.distances(problem, theta, frequencies, batch).sum()
            matching, total = matching + distance.detach(), distance
            if c.calib_weight:
                logits = problem.network.by_group(partial(problem.network.logits, trained), batch.synthetic)
                entropy = c.calib_weight * batch.cross_entropies(logits).sum()
                calibration, total = calibration + entropy.detach(), distance + entropy
            total.backward()
            assert batch.stored.grad is not None
            gradient[batch.rows] = batch.stored.grad
        parts = {"loss": matching + calibration, "calibration": calibration, "gradient": gradient}
        if psi is not None:
            sampled.backward(frequencies.grad)
            assert psi.grad is not None
            parts["gradient of psi"] = psi.grad
        found = problem.work.total(parts)
        check_finite(
            self.name,
            iteration,
            {"images": state["images"], **found},
            lambda: state | {"expert": theta, "expert at its end": trained},
        )
        state["images"] = images
        self.update_images(state, found["gradient"])
        if psi is not None:
            sgd_(state, "psi", -found["gradient of psi"], lr=c.lr_psi, momentum=c.momentum_psi)
        return {name: float(found[name]) for name in ("loss", "calibration")}

    def descend(self, state: State, gradient: Tensor) -> None:
        c = self.config
        move = adam_ if c.optimizer == "adam" else sgd_
        move(state, "images", gradient, lr=c.lr_img, momentum=c.momentum_img)

    def networks(self, problem: Problem, iteration: int) -> tuple[Tensor, Tensor]:
        """theta, uniform on the line from an expert's start to its end, and that end, theta_end."""
        assert problem.experts is not None
        draws = problem.rng("network", iteration)
        expert = int(torch.randint(self.config.num_experts, (), generator=draws))
        part = float(torch.rand((), generator=draws))
        start, end = (problem.experts.snapshot(expert, epoch) for epoch in (0, self.config.pretrain_epochs))
        return part * start + (1 - part) * end, end

    def frequencies(self, psi: Tensor | None, problem: Problem, iteration: int) -> Tensor:
        """t [T, d], for all classes of an iteration; differentiable by psi. Without psi they are standard normal."""
        c, d, draws = self.config, problem.network.embedding_size, problem.rng("frequencies", iteration)
        normal = torch.randn(c.num_freqs, d, generator=draws).to(problem.device, problem.network.dtype)
        if psi is None:
            return normal
        z = torch.randn(c.num_freqs // PER_SCALE, d, generator=draws).to(normal)
        return scales(psi, z).repeat_interleave(PER_SCALE, 0) * normal

    def distances(self, problem: Problem, theta: Tensor, frequencies: Tensor, batch: ClassBatch) -> Tensor:
        """300 D [c] of each class of the batch, differentiable by batch.synthetic and the frequencies [T, d]."""

        def embed(x: Tensor) -> Tensor:
            return F.normalize(problem.network.embed(theta, x), dim=1)

        with torch.no_grad():
            real = problem.network.by_group(embed, batch.real)
        synthetic = problem.network.by_group(embed, batch.synthetic)
        return STRENGTH * characteristic_distance(real, synthetic, frequencies, self.config.alpha)


def initial_psi(d: int, draws: torch.Generator) -> Tensor:
    """psi [3, d + 2, d]: for each layer a matrix, uniform on +- 1/sqrt(d) as in torch's Linear, a scale and a shift."""
    matrices = (2 * torch.rand(3, d, d, generator=draws) - 1) / d**0.5
    return torch.cat([matrices, torch.ones(3, 1, d), torch.zeros(3, 1, d)], 1)


def scales(psi: Tensor, z: Tensor) -> Tensor:
    """sigma_psi(z) in (1/e, e), z and sigma [g, d]: each layer is a product, batch normalisation over g, an activation.

    That is LeakyReLU (0.2), and exp(tanh) for the last layer: positive, bounded, and with the median 1 at the start.
    The products need no bias, which the normalisation would take away again.
    """
    last = len(psi) - 1
    for number, layer in enumerate(psi):
        z = F.batch_norm(z @ layer[:-2], None, None, layer[-2], layer[-1], training=True)
        z = z.tanh().exp() if number == last else F.leaky_relu(z, 0.2)
    return z
