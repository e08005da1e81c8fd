"""DataDAM: dataset distillation with attention matching.

Sajedi, Khaki, Amjadian, Liu, Lawryshyn and Plataniotis, ICCV 2023, arXiv 2310.00093. One iteration, with F_l the output
of the l-th activation of a new random network for a class's images, a(F) its spatial attention to the exponent p, f the
embedding, and real and synthetic images of a class under one augmentation:

    L = s sum over classes of ( sum over l < last of | mean a(F_l(x_r)) - mean a(F_l(x_s)) |^2
                                + lambda | mean f(x_r) - mean f(x_s) |^2 )

The paper has p = 4 and a network with instance norm; the authors' code p = 1, batch norm and 20000 iterations. s = 100
is the code's, and not in the paper's table of hyper-parameters. Here batch norm takes the statistics of one class at a
time; there all classes are one batch.
"""

from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from condense.errors import ConfigError
from condense.methods.base import MethodConfig, Need, Problem, register
from condense.methods.matching import ClassBatch, Matching, MatchingConfig
from condense.objectives import mean_distance, spatial_attention
from condense.synthetic import State


class DataDAMConfig(MatchingConfig):
    """Hyper-parameters of DataDAM. p, lambda and s above are attention_power, task_balance and loss_scale."""

    iterations: int = Field(8000, ge=0, description="updates of the synthetic set")
    batch_real: int = Field(64, ge=1, description="real images of each class in an iteration")
    attention_power: float = Field(4.0, ge=1, description="exponent of the spatial attention; the authors' code: 1")
    task_balance: float = Field(0.01, ge=0, description="weight of the embeddings against the attention")
    loss_scale: float = Field(100.0, gt=0, description="factor of the whole loss, as in the authors' code")


C = TypeVar("C", bound=DataDAMConfig)


@register
class DataDAM(Matching[C]):
    name: ClassVar[str] = "datadam"
    family: ClassVar[str] = "attention"
    summary: ClassVar[str] = "match where random networks look, layer by layer, and the mean embedding of each class"
    citation: ClassVar[str] = """@inproceedings{sajedi2023datadam,
  title = {DataDAM: Efficient Dataset Distillation with Attention Matching},
  author = {Sajedi, Ahmad and Khaki, Samir and Amjadian, Ehsan and Liu, Lucy Z. and Lawryshyn, Yuri A.
            and Plataniotis, Konstantinos N.},
  booktitle = {ICCV}, year = {2023}, eprint = {2310.00093}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = DataDAMConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EMBEDDING})

    def init(self, problem: Problem) -> State:
        """The images. Raises ConfigError for a network without two feature maps: the last one is not compared."""
        network = problem.network
        theta = torch.zeros(network.num_parameters, dtype=network.dtype, device=network.device)
        maps, _ = network.features(theta, problem.inputs[torch.zeros(1, dtype=torch.int64)])
        if len(maps) < 2:
            raise ConfigError(
                f"network {network.name!r} has {len(maps)} feature maps, but {self.name} compares those of all "
                "activations except the last, so at least 2 are needed. Choose a convolutional network: "
                "convnet (of depth 2 or more), lenet, alexnet, vgg11, resnet18, or one of torchvision's of that kind"
            )
        return super().init(problem)

    def attention(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The vectors [n, d] of n images that are matched, from their maps [n, ch, h, w]."""
        return [spatial_attention(layer, self.config.attention_power) for layer in maps]

    def class_losses(self, problem: Problem, theta: Tensor, batch: ClassBatch) -> Tensor:
        def describe(x: Tensor) -> tuple[list[Tensor], Tensor]:
            maps, embedding = problem.network.features(theta, x)
            return self.attention(maps[:-1]), embedding

        with torch.no_grad():
            real, real_embedding = problem.network.by_group(describe, batch.real)
        synthetic, embedding = problem.network.by_group(describe, batch.synthetic)
        attention = torch.stack([mean_distance(r, s) for r, s in zip(real, synthetic, strict=True)]).sum(0)
        c = self.config
        return c.loss_scale * (attention + c.task_balance * mean_distance(real_embedding, embedding))
