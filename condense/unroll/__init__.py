"""The derivative of an inner training run with respect to what it was trained on."""

from condense.unroll.adjoint import adjoint
from condense.unroll.oracles import full_graph, with_higher
from condense.unroll.tesla import tesla
from condense.unroll.types import Engine, InnerRun, InnerStep, OuterLoss, Unrolled, average

ENGINES: dict[str, Engine] = {"adjoint": adjoint, "graph": full_graph, "higher": with_higher, "tesla": tesla}

__all__ = [
    "ENGINES",
    "Engine",
    "InnerRun",
    "InnerStep",
    "OuterLoss",
    "Unrolled",
    "adjoint",
    "average",
    "full_graph",
    "tesla",
    "with_higher",
]
