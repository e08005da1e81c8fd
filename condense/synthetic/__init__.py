"""What is optimised: where a synthetic set starts, how it moves, and the set a condenser hands over."""

from condense.synthetic.initial import (
    Initial,
    class_members,
    hard_labels,
    initial_images,
    nearest_to_centres,
    refuse_small_classes,
    sample_per_class,
)
from condense.synthetic.label_store import (
    LabelStore,
    ShownBatch,
    StoreKind,
    Views,
    draw_views,
    parts,
    relabel,
)
from condense.synthetic.optimiser import State, adam_, adam_moments, sgd_
from condense.synthetic.pixels import clamp_to_pixels
from condense.synthetic.types import DistilledSet
from condense.synthetic.views import MOST_COMPENSATORS, compensated, decode, encode, with_mirror

__all__ = [
    "MOST_COMPENSATORS",
    "DistilledSet",
    "Initial",
    "LabelStore",
    "ShownBatch",
    "State",
    "StoreKind",
    "Views",
    "adam_",
    "adam_moments",
    "clamp_to_pixels",
    "class_members",
    "compensated",
    "decode",
    "draw_views",
    "encode",
    "hard_labels",
    "initial_images",
    "nearest_to_centres",
    "parts",
    "refuse_small_classes",
    "relabel",
    "sample_per_class",
    "sgd_",
    "with_mirror",
]
