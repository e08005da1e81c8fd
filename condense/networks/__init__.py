"""Networks by name, and as functions of one flat parameter vector."""

from condense.networks.registry import NETWORKS, canonical, create
from condense.networks.stateless import Network

__all__ = ["NETWORKS", "Network", "canonical", "create"]
