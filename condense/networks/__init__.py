"""Networks by name, as functions of one flat parameter vector, and their derivatives."""

from condense.networks.compiled import CompiledNetwork
from condense.networks.loss import InnerLoss, Kept, Slope
from condense.networks.parts import batch_norms, hooked, images_per_epoch
from condense.networks.paying import COMPILED_NUMERICS, compiling_pays, has_compiler, operations
from condense.networks.registry import FAMILIES, NETWORKS, canonical, create
from condense.networks.stateless import Network, Precision

__all__ = [
    "COMPILED_NUMERICS",
    "FAMILIES",
    "NETWORKS",
    "CompiledNetwork",
    "InnerLoss",
    "Kept",
    "Network",
    "Precision",
    "Slope",
    "batch_norms",
    "canonical",
    "compiling_pays",
    "create",
    "has_compiler",
    "hooked",
    "images_per_epoch",
    "operations",
]
