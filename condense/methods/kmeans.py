"""k-means: the real image nearest to each of ipc cluster centres.

The strongest real-image baseline of DC-BENCH (Cui et al., NeurIPS 2022, arXiv 2207.09639). Per class, k-means++ with 3
restarts and at most 300 rounds on the embeddings; each centre in turn takes the nearest image not yet taken.
"""

from typing import ClassVar

import torch
from sklearn.cluster import KMeans as SklearnKMeans
from torch import Tensor

from condense.methods.base import register
from condense.methods.coreset import EmbeddedCoreset


@register
class KMeans(EmbeddedCoreset):
    name: ClassVar[str] = "kmeans"
    summary: ClassVar[str] = "the real image nearest to each k-means centre of its class's embeddings"
    citation: ClassVar[str] = """@inproceedings{cui2022dcbench,
  title = {{DC-BENCH}: Dataset Condensation Benchmark},
  author = {Cui, Justin and Wang, Ruochen and Si, Si and Hsieh, Cho-Jui},
  booktitle = {NeurIPS Datasets and Benchmarks}, year = {2022}, eprint = {2207.09639}, archivePrefix = {arXiv}}"""

    def choose(self, features: Tensor, ipc: int, seed: int) -> Tensor:
        fitted = SklearnKMeans(n_clusters=ipc, n_init=3, random_state=seed).fit(features.numpy())
        distances = torch.cdist(torch.from_numpy(fitted.cluster_centers_).to(features), features)
        chosen: list[int] = []
        for row in distances:
            row[chosen] = torch.inf
            chosen.append(int(row.argmin()))
        return torch.tensor(chosen)
