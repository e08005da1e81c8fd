"""What the trajectory-matching methods share whose labels come from experts."""

from pydantic import Field

from condense.experts import ExpertPlan
from condense.methods.mtt import MTTConfig


class ExpertLabelsConfig(MTTConfig):
    """Keys of the methods."""

    label_epoch: int | None = Field(
        None, ge=0, description="epoch of the experts that give labels; none: the last that can be a target"
    )

    @property
    def labelled_at(self) -> int:
        return self.last_target if self.label_epoch is None else self.label_epoch

    def expert_plan(self, dsa: str) -> ExpertPlan:
        """The same experts, trained until they have reached the epoch of the labels too."""
        plan = super().expert_plan(dsa)
        return plan.model_copy(update={"epochs": max(plan.epochs, self.labelled_at)})
