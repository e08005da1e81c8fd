"""Herding: real images whose running mean follows the class mean.

Welling, "Herding dynamical weights to learn", ICML 2009; as a baseline of distillation, Zhao et al., arXiv 2006.05929.
With phi_i the embedding of image i and mu the class mean, image k is

    argmin_i | k mu - sum_{chosen} phi_j - phi_i |      over images not yet chosen.
"""

from typing import ClassVar

import torch
from torch import Tensor

from condense.methods.base import register
from condense.methods.coreset import EmbeddedCoreset, greedy


@register
class Herding(EmbeddedCoreset):
    name: ClassVar[str] = "herding"
    summary: ClassVar[str] = "real images whose running mean embedding follows the class mean"
    citation: ClassVar[str] = """@inproceedings{welling2009herding,
  title = {Herding Dynamical Weights to Learn}, author = {Welling, Max},
  booktitle = {ICML}, year = {2009}, doi = {10.1145/1553374.1553517}}"""

    def choose(self, features: Tensor, ipc: int, seed: int) -> Tensor:  # noqa: ARG002  (deterministic)
        mean = features.mean(0)
        residual = mean.clone()  # k mu - sum of the chosen, for the next k

        def score(last: int) -> Tensor:
            residual.add_(mean - features[last])
            distance: Tensor = torch.linalg.vector_norm(residual - features, dim=1)
            return distance

        first = int(torch.linalg.vector_norm(mean - features, dim=1).argmin())
        return greedy(first, ipc, score)
