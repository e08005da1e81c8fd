"""DSA: DC with differentiable siamese augmentation.

Zhao and Bilen, ICML 2021, arXiv 2102.08259, equation 5. DC with two changes: the real and the synthetic images of a
class get the same transform, drawn anew for each class and iteration, before their gradients are matched; and the
network is trained on augmented images.
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from condense import augment
from condense.methods.base import MethodConfig, Problem, register
from condense.methods.dc import DC, DCConfig
from condense.synthetic import Initial


class DSAConfig(DCConfig):
    """Hyper-parameters of DSA: those of DC. The operators are the run's, `dsa`."""

    init: Initial = Field("real", description="where the images start")


@register
class DSA(DC[DSAConfig]):
    name: ClassVar[str] = "dsa"
    summary: ClassVar[str] = "DC with the same random transform for the real and synthetic images of a class"
    citation: ClassVar[str] = """@inproceedings{zhao2021dsa,
  title = {Dataset Condensation with Differentiable Siamese Augmentation},
  author = {Zhao, Bo and Bilen, Hakan},
  booktitle = {ICML}, year = {2021}, eprint = {2102.08259}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = DSAConfig

    def augmentations(self, problem: Problem) -> Sequence[augment.DSA]:
        return (problem.augmentation,)
