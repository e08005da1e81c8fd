"""Real data as tensors: where they come from, and the invertible preprocessing that training sees."""

from condense.data.inputs import Inputs
from condense.data.preprocess import PREPROCESSINGS, Kind, Preprocessing, fit_preprocessing
from condense.data.raw import fingerprint
from condense.data.sources import DATASETS, Source, find_source, load_dataset
from condense.data.types import RealData, Split

__all__ = [
    "DATASETS",
    "PREPROCESSINGS",
    "Inputs",
    "Kind",
    "Preprocessing",
    "RealData",
    "Source",
    "Split",
    "find_source",
    "fingerprint",
    "fit_preprocessing",
    "load_dataset",
]
