"""Networks by name, as functions of one flat parameter vector, and their derivatives."""

from condense.networks.compiled import CompiledNetwork
from condense.networks.loss import InnerLoss, Kept, Slope
from condense.networks.registry import NETWORKS, canonical, create
from condense.networks.stateless import Network

__all__ = ["NETWORKS", "CompiledNetwork", "InnerLoss", "Kept", "Network", "Slope", "canonical", "create"]
