"""FTD: minimising the accumulated trajectory error.

Du, Jiang, Tan, Zhou and Li, CVPR 2023, arXiv 2211.11004. MTT with two changes:

* the experts are trained with GSAM, towards flat minima, so that a student which strays from an expert's path is hurt
  less by it (section 4, algorithm 1);
* the set that is handed over is the exponential moving average of the images, ema <- d ema + (1 - d) images after each
  update (the optimiser never sees it).

With rho = 0 and ema_decay = 0 this is MTT, bit for bit.
"""

from typing import ClassVar

from pydantic import Field

from condense.experts import ExpertPlan
from condense.methods.base import MethodConfig, register
from condense.methods.mtt import MTT, MTTConfig


class FTDConfig(MTTConfig):
    """Hyper-parameters of FTD: those of MTT, GSAM's and the moving average's."""

    rho: float = Field(0.01, ge=0, description="GSAM: radius of the perturbation; 0 is plain SGD")
    alpha: float = Field(1.0, ge=0, description="GSAM: weight of the surrogate gap")
    adaptive: bool = Field(True, description="GSAM: perturbation in proportion to the squared parameters")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the images' moving average; 0 turns it off")

    def expert_plan(self, dsa: str) -> ExpertPlan:
        """MTT's plan with GSAM, which at rho = 0 is MTT's plan."""
        if self.rho == 0:
            return super().expert_plan(dsa)
        return (
            super()
            .expert_plan(dsa)
            .model_copy(update={"rho": self.rho, "alpha": self.alpha, "adaptive": self.adaptive})
        )


@register
class FTD(MTT[FTDConfig]):
    name: ClassVar[str] = "ftd"
    summary: ClassVar[str] = "MTT with flat-minima (GSAM) experts and the moving average of the images"
    citation: ClassVar[str] = """@inproceedings{du2023ftd,
  title = {Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation},
  author = {Du, Jiawei and Jiang, Yidi and Tan, Vincent Y. F. and Zhou, Joey Tianyi and Li, Haizhou},
  booktitle = {CVPR}, year = {2023}, eprint = {2211.11004}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = FTDConfig
