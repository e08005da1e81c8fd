"""TESLA: trajectory matching with constant memory, and soft labels from the experts.

Cui, Wang, Si and Hsieh, ICML 2023, arXiv 2211.10586. MTT with two changes:

* the gradient is taken in two passes that leave out every Hessian product (`condense.unroll.tesla` has the equations).
  It is exact for N = 1 and an approximation else; `unroll=adjoint` is exact for any N, in the same memory;
* with `teacher_label`, an inner run has the labels that the expert gives to the images at the epoch that is matched,

      y = softmax(f(theta*_{t+M}, x))        temperature 1, x not augmented, y not differentiated.

What is handed over has the labels that `label_expert` gives at `label_epoch` to the images as they are then. The
released code hands over those of whichever expert came last, for the images of the iteration before.

Without labels and with unroll = adjoint this is MTT, bit for bit.
"""

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from condense.methods.base import MethodConfig, Metrics, Problem, register
from condense.methods.labels import ExpertLabelsConfig
from condense.methods.mtt import MTT, Segment
from condense.synthetic import State


class TESLAConfig(ExpertLabelsConfig):
    """Hyper-parameters of TESLA: those of MTT, and where its labels come from."""

    iterations: int = Field(10000, ge=0, description="updates of the synthetic set")
    unroll: Literal["adjoint", "graph", "higher", "tesla"] = Field(
        "tesla", description="how the inner run is differentiated; tesla is an approximation, the others are exact"
    )
    teacher_label: bool = Field(False, description="soft labels by the experts; else hard ones")
    label_expert: int = Field(0, ge=0, description="the expert that labels the set that is handed over")

    @field_validator("label_expert")
    @classmethod
    def _is_there(cls, expert: int, info: ValidationInfo) -> int:
        count = info.data.get("num_experts", expert + 1)
        if info.data.get("teacher_label") and expert >= count:
            raise ValueError(f"label_expert = {expert}: there are num_experts = {count} experts, 0 .. {count - 1}")
        return expert

    @property
    def uses_label_epoch(self) -> bool:
        return self.teacher_label

    def passes(self, classes: int, ipc: int) -> float:
        """Those of MTT; labels take a pass forward for each segment, and one for the set that is handed over."""
        labelling = classes * ipc * self.views * (self.experts_per_step + 1) / 3
        return super().passes(classes, ipc) + (labelling if self.teacher_label else 0)


@register
class TESLA(MTT[TESLAConfig]):
    name: ClassVar[str] = "tesla"
    summary: ClassVar[str] = "MTT with the approximate gradient of two passes, and soft labels from the experts"
    citation: ClassVar[str] = """@inproceedings{cui2023tesla,
  title = {Scaling Up Dataset Distillation to {ImageNet-1K} with Constant Memory},
  author = {Cui, Justin and Wang, Ruochen and Si, Si and Hsieh, Cho-Jui},
  booktitle = {ICML}, year = {2023}, eprint = {2211.10586}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = TESLAConfig

    def init(self, problem: Problem) -> State:
        state = super().init(problem)
        self.relabel(state, problem)
        return state

    def step(self, state: State, problem: Problem, iteration: int) -> Metrics:
        metrics = super().step(state, problem, iteration)
        self.relabel(state, problem)
        return metrics

    def labels(self, state: State, problem: Problem, segment: Segment) -> Tensor:
        if not self.config.teacher_label:
            return super().labels(state, problem, segment)
        return self.logits(problem, segment.target, state["images"]).softmax(1)

    def relabel(self, state: State, problem: Problem) -> None:
        """Give the images that would be handed over now their labels, if they are to be soft."""
        c = self.config
        if c.teacher_label:
            assert problem.experts is not None
            theta = problem.experts.snapshot(c.label_expert, c.labelled_at)
            state["labels"] = self.logits(problem, theta, self.result(state)).softmax(1)
