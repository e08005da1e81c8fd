"""PAD: prioritise alignment in dataset distillation.

Li et al., 2024, arXiv 2408.03360. DATM with two changes:

* the experts follow a data curriculum (`condense.experts.Curriculum`): first the easy images, then all, then without
  the easiest, so that trajectories hold the patterns that suit the size of the set;
* only the deep part of the parameters is matched, since shallow layers carry low-level detail. With the L layers in
  order, a layer being a module with parameters of its own, the loss is

      |theta_N - target|^2 / |theta_0 - target|^2     over the parameters of all but the first floor(depth_ratio L).

In place of the second the released code has a filter by loss, `loss_ratio`: it leaves out the parameters that are
matched best. With all of them off (ratios 0, init_ratio 1) this is DATM, bit for bit.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from condense.experts import Curriculum, ExpertPlan
from condense.methods.base import MethodConfig, Problem, register
from condense.methods.datm import DATM, DATMConfig
from condense.methods.mtt import Segment
from condense.networks import Network
from condense.objectives import filtered_distance, normalised_distance
from condense.unroll import OuterLoss


class PADConfig(DATMConfig):
    """Hyper-parameters of PAD: those of DATM, of what is matched, and of the experts' curriculum."""

    depth_ratio: float = Field(0.25, ge=0, lt=1, description="part of the layers, the shallowest, that is not matched")
    loss_ratio: float = Field(
        0.0, ge=0, lt=1, description="part of the parameters, those matched best, left out; in the released code only"
    )
    init_ratio: float = Field(0.75, gt=0, le=1, description="curriculum: part of each class in epoch 0, the easiest")
    add_end_epoch: int = Field(20, ge=0, description="curriculum: from this epoch on all images")
    rm_epoch_first: int = Field(40, ge=0, description="curriculum: the last epoch with all images")
    rm_epoch_second: int = Field(60, ge=0, description="curriculum: the last epoch of the first removal")
    rm_easy_ratio_first: float = Field(0.1, ge=0, lt=1, description="curriculum: part of each class removed first")
    rm_easy_ratio_second: float = Field(0.2, ge=0, lt=1, description="curriculum: part of each class removed after")
    score_networks: int = Field(10, ge=1, description="curriculum: networks that score the images")
    score_epochs: int = Field(10, ge=1, description="curriculum: epochs of their training")

    @property
    def curriculum(self) -> Curriculum | None:
        """None if all images are in every epoch."""
        curriculum = Curriculum(**{key: getattr(self, key) for key in Curriculum.model_fields})
        return None if curriculum.drops_nothing else curriculum

    def expert_plan(self, dsa: str) -> ExpertPlan:
        return super().expert_plan(dsa).model_copy(update={"curriculum": self.curriculum})


def deep_part(network: Network, theta: Tensor, ratio: float) -> Tensor:
    """theta [P] without the parameters of the first floor(ratio L) of the network's L layers."""
    parts = network.split(theta)
    layers = [name.rpartition(".")[0] for name in parts]
    in_order = list(dict.fromkeys(layers))
    shallow = in_order[: int(ratio * len(in_order))]
    return torch.cat(
        [part.flatten() for part, layer in zip(parts.values(), layers, strict=True) if layer not in shallow]
    )


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
        if not c.depth_ratio and not c.loss_ratio:
            return super().outer_loss(problem, segment)

        def deep(theta: Tensor) -> Tensor:
            return deep_part(problem.network, theta, c.depth_ratio)

        start, target = deep(segment.start), deep(segment.target)
        if c.loss_ratio:
            return lambda end: filtered_distance(deep(end), start, target, c.loss_ratio)
        return lambda end: normalised_distance(deep(end), start, target)
