"""DM: dataset condensation with distribution matching.

Zhao and Bilen, WACV 2023, arXiv 2110.04181, equation 5. One iteration, with f the embedding of a new random network:

    L = sum over classes c of | mean f(T_c x_r) - mean f(T_c x_s) |^2
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from condense.methods.base import MethodConfig, Need, Problem, register
from condense.methods.matching import ClassBatch, Matching, MatchingConfig
from condense.objectives import mean_distance


class DMConfig(MatchingConfig):
    """Hyper-parameters of DM."""

    iterations: int = Field(20000, ge=0, description="updates of the synthetic set")


@register
class DM(Matching[DMConfig]):
    name: ClassVar[str] = "dm"
    family: ClassVar[str] = "distribution"
    summary: ClassVar[str] = "match the mean embedding of each class in random networks"
    citation: ClassVar[str] = """@inproceedings{zhao2023dm,
  title = {Dataset Condensation with Distribution Matching},
  author = {Zhao, Bo and Bilen, Hakan},
  booktitle = {WACV}, year = {2023}, eprint = {2110.04181}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = DMConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EMBEDDING})

    def class_losses(self, problem: Problem, theta: Tensor, batch: ClassBatch) -> Tensor:
        def embed(x: Tensor) -> Tensor:
            return problem.network.embed(theta, x)

        with torch.no_grad():
            target = problem.network.by_group(embed, batch.real)
        return mean_distance(target, problem.network.by_group(embed, batch.synthetic))
