"""RDED: images that are tiled from the most realistic patches of real ones, and labels of their views.

Sun, Shi, Yu and Lin, CVPR 2024, arXiv 2312.03526. Nothing is optimised: of each class the patches that a teacher is
surest of (`condense.methods.patches`), f x f to an image, in the order of its certainty.
"""

from typing import ClassVar

from pydantic import Field

from condense.methods.base import MethodConfig, Problem, register
from condense.methods.decoupled import Decoupled, DecoupledConfig
from condense.methods.patches import PatchConfig, patched_images
from condense.synthetic import State


class RDEDConfig(PatchConfig, DecoupledConfig):
    """Hyper-parameters of RDED."""

    iterations: int = Field(0, ge=0, le=0, description="nothing is optimised: 0")


@register
class RDED(Decoupled[RDEDConfig]):
    name: ClassVar[str] = "rded"
    summary: ClassVar[str] = "tile the patches of real images that a teacher is surest of, and label their views"
    citation: ClassVar[str] = """@inproceedings{sun2024rded,
  title = {On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm},
  author = {Sun, Peng and Shi, Bei and Yu, Daiwei and Lin, Tao},
  booktitle = {CVPR}, year = {2024}, eprint = {2312.03526}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = RDEDConfig

    def init(self, problem: Problem) -> State:
        """The first of the teachers chooses."""
        return {"images": patched_images(problem, problem.pool[0], self.config)}
