"""What is optimised: where a synthetic set starts, how it moves, and the set a condenser hands over."""

from condense.synthetic.initial import INITIAL, Initial, hard_labels, initial_images, sample_per_class
from condense.synthetic.optimiser import State, sgd_
from condense.synthetic.types import DistilledSet

__all__ = [
    "INITIAL",
    "DistilledSet",
    "Initial",
    "State",
    "hard_labels",
    "initial_images",
    "sample_per_class",
    "sgd_",
]
