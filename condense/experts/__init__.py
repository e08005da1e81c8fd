"""Expert training runs and the store ("buffer") of their trajectories."""

from condense.experts.store import TrajectoryStore
from condense.experts.train import ExpertPlan, gsam_direction, sgd_step, train_expert

__all__ = ["ExpertPlan", "TrajectoryStore", "gsam_direction", "sgd_step", "train_expert"]
