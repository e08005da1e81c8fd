"""PAD: prioritise alignment in dataset distillation.

Li et al., 2024, arXiv 2408.03360. DATM with two changes:

* the experts follow a data curriculum (`condense.experts.Curriculum`): first the easy images, then all, then without
  the easiest, so that trajectories hold the patterns that suit the size of the set;
* only the deep part of the parameters is matched, since shallow layers carry low-level detail. With theta [P] in the
  order of the network, from its input on, the loss is

      |theta_N - target|^2 / |theta_0 - target|^2     over all but the first floor(depth_ratio P) parameters.

In place of the second the released code has a filter by loss, `loss_ratio`: it leaves out the parameters that are
matched best. With all of them off (ratios 0, init_ratio 1) this is DATM, bit for bit.
"""

from typing import ClassVar

from pydantic import Field

from condense.experts import Curriculum, ExpertPlan
from condense.methods.base import MethodConfig, Problem, register
from condense.methods.datm import DATM, DATMConfig
from condense.methods.mtt import Segment
from condense.objectives import filtered_distance, normalised_distance
from condense.unroll import OuterLoss


class PADConfig(Curriculum, DATMConfig):
    """Hyper-parameters of PAD: those of DATM, of the experts' curriculum, and of what is matched."""

    depth_ratio: float = Field(0.25, ge=0, lt=1, description="part of the parameters, the shallowest, left out")
    loss_ratio: float = Field(
        0.0, ge=0, lt=1, description="part of the parameters, those matched best, left out; not in the paper"
    )

    @property
    def curriculum(self) -> Curriculum | None:
        """None if all images are in every epoch."""
        curriculum = Curriculum(**{key: getattr(self, key) for key in Curriculum.model_fields})
        return None if curriculum.drops_nothing else curriculum

    def expert_plan(self, dsa: str) -> ExpertPlan:
        return super().expert_plan(dsa).model_copy(update={"curriculum": self.curriculum})


@register
class PAD(DATM[PADConfig]):
    name: ClassVar[str] = "pad"
    summary: ClassVar[str] = "DATM that matches deep layers only, to experts with a data curriculum"
    citation: ClassVar[str] = """@misc{li2024pad,
  title = {Prioritize Alignment in Dataset Distillation},
  author = {Li, Zekai and Guo, Ziyao and Zhao, Wangbo and Zhang, Tianle and Cheng, Zhi-Qi and Khaki, Samir and
            Zhang, Kaipeng and Sajedi, Ahmad and Plataniotis, Konstantinos N and Wang, Kai and You, Yang},
  year = {2024}, eprint = {2408.03360}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = PADConfig

    def outer_loss(self, problem: Problem, segment: Segment) -> OuterLoss:
        c = self.config
        deep = slice(int(c.depth_ratio * problem.network.num_parameters), None)
        start, target = segment.start[deep], segment.target[deep]
        if c.loss_ratio:
            return lambda end: filtered_distance(end[deep], start, target, c.loss_ratio)
        return lambda end: normalised_distance(end[deep], start, target)
