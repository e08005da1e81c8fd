"""Random real images: the baseline every condenser has to beat."""

from typing import ClassVar

from torch import Tensor

from condense.methods.base import Problem, register
from condense.methods.coreset import Coreset
from condense.synthetic import sample_per_class


@register
class Random(Coreset):
    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "real images of each class, drawn without replacement"
    citation: ClassVar[str] = """@inproceedings{zhao2021dc,
  title = {Dataset Condensation with Gradient Matching},
  author = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},
  booktitle = {ICLR}, year = {2021}, eprint = {2006.05929}, archivePrefix = {arXiv},
  note = {the baseline as this paper defines it}}"""

    def pick(self, problem: Problem) -> Tensor:
        return sample_per_class(problem.members, problem.ipc, problem.rng("init.images"))
