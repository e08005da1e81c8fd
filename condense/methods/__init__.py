"""The condensers, by name. Importing a method's module registers it."""

from condense.methods import ftd, herding, kcenter, kmeans, mtt, random
from condense.methods.base import (
    METHODS,
    Condenser,
    ExpertConfig,
    MethodConfig,
    Metrics,
    Need,
    Problem,
    TeacherConfig,
    get_method,
    list_methods,
)

__all__ = [
    "METHODS",
    "Condenser",
    "ExpertConfig",
    "MethodConfig",
    "Metrics",
    "Need",
    "Problem",
    "TeacherConfig",
    "ftd",
    "get_method",
    "herding",
    "kcenter",
    "kmeans",
    "list_methods",
    "mtt",
    "random",
]
