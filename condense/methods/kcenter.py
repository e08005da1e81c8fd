"""k-center: real images spread so that no image of the class is far from a chosen one.

Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018, arXiv
1708.00489, algorithm 1; as a baseline of distillation, Zhao et al., arXiv 2006.05929, which starts at the image nearest
to the class mean. Each further image is argmax_i min_{j chosen} |phi_i - phi_j|.
"""

from typing import ClassVar

import torch
from torch import Tensor

from condense.methods.base import register
from condense.methods.coreset import EmbeddedCoreset, greedy


@register
class KCenter(EmbeddedCoreset):
    name: ClassVar[str] = "kcenter"
    summary: ClassVar[str] = "real images, each the farthest in embedding from those already chosen"
    citation: ClassVar[str] = """@inproceedings{sener2018coreset,
  title = {Active Learning for Convolutional Neural Networks: A Core-Set Approach},
  author = {Sener, Ozan and Savarese, Silvio},
  booktitle = {ICLR}, year = {2018}, eprint = {1708.00489}, archivePrefix = {arXiv}}"""

    def choose(self, features: Tensor, ipc: int, seed: int) -> Tensor:  # noqa: ARG002  (deterministic)
        nearest = torch.full((len(features),), torch.inf, dtype=features.dtype)

        def score(last: int) -> Tensor:
            distance = torch.linalg.vector_norm(features - features[last], dim=1)
            torch.minimum(nearest, distance, out=nearest)
            return -nearest

        first = int(torch.linalg.vector_norm(features - features.mean(0), dim=1).argmin())
        return greedy(first, ipc, score)
