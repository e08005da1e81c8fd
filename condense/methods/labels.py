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

    @property
    def uses_label_epoch(self) -> bool:
        """Whether an expert labels or judges any image: if none does, nobody looks at that epoch."""
        raise NotImplementedError

    def expert_plan(self, dsa: str) -> ExpertPlan:
        """The same experts, trained until they have reached the epoch of the labels too, if it is looked at."""
        plan = super().expert_plan(dsa)
        if not self.uses_label_epoch:
            return plan
        return plan.model_copy(update={"epochs": max(plan.epochs, self.labelled_at)})
