"""What condensers minimise, and what they choose by: pure functions of tensors, one file per family."""

from condense.objectives.attention import channel_attention, spatial_attention
from condense.objectives.characteristic import characteristic_distance, characteristic_function
from condense.objectives.difficulty import error_norm, forgetting_events, gradient_norm
from condense.objectives.distillation import (
    distance_loss,
    distances,
    divergence,
    logit_loss,
    mixed_cross_entropy,
)
from condense.objectives.distribution import mean_distance
from condense.objectives.gradient import (
    absolute_distance,
    convolutions,
    cosine_distance,
    row_distance,
    squared_distance,
)
from condense.objectives.statistics import statistics_distance
from condense.objectives.trajectory import filtered_distance, normalised_distance

__all__ = [
    "absolute_distance",
    "channel_attention",
    "characteristic_distance",
    "characteristic_function",
    "convolutions",
    "cosine_distance",
    "distance_loss",
    "distances",
    "divergence",
    "error_norm",
    "filtered_distance",
    "forgetting_events",
    "gradient_norm",
    "logit_loss",
    "mean_distance",
    "mixed_cross_entropy",
    "normalised_distance",
    "row_distance",
    "spatial_attention",
    "squared_distance",
    "statistics_distance",
]
