"""k-means: the real image nearest to each of ipc cluster centres.

The strongest real-image baseline of DC-BENCH (Cui et al., NeurIPS 2022, arXiv 2207.09639). Per class, k-means on
the embeddings; each centre in turn takes the nearest image not yet taken.
"""

from typing import ClassVar

from torch import Tensor

from condense.methods.base import register
from condense.methods.coreset import EmbeddedCoreset
from condense.synthetic import nearest_to_centres


@register
class KMeans(EmbeddedCoreset):
    name: ClassVar[str] = "kmeans"
    summary: ClassVar[str] = "the real image nearest to each k-means centre of its class's embeddings"
    citation: ClassVar[str] = """@inproceedings{cui2022dcbench,
  title = {{DC-BENCH}: Dataset Condensation Benchmark},
  author = {Cui, Justin and Wang, Ruochen and Si, Si and Hsieh, Cho-Jui},
  booktitle = {NeurIPS Datasets and Benchmarks}, year = {2022}, eprint = {2207.09639}, archivePrefix = {arXiv}}"""

    def choose(self, features: Tensor, ipc: int, seed: int) -> Tensor:
        return nearest_to_centres(features, ipc, seed)
