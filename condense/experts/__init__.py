"""Expert training runs and the store ("buffer") of their trajectories."""

from condense.experts.curriculum import Curriculum
from condense.experts.difficulty import rank_by_difficulty
from condense.experts.store import TrajectoryStore
from condense.experts.train import ExpertPlan, Stream, gsam_direction, sgd_step, train_expert

__all__ = [
    "Curriculum",
    "ExpertPlan",
    "Stream",
    "TrajectoryStore",
    "gsam_direction",
    "rank_by_difficulty",
    "sgd_step",
    "train_expert",
]
