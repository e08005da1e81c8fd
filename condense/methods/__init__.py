"""The condensers, by name. Importing a method's module registers it."""

from condense.methods import atom, datadam, dc, dm, dsa, ftd, herding, idc, idm, kcenter, kmeans, mtt, ncfm, random
from condense.methods.base import (
    METHODS,
    Condenser,
    ExpertConfig,
    MethodConfig,
    Metrics,
    Need,
    Problem,
    TeacherConfig,
    Work,
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
    "Work",
    "atom",
    "datadam",
    "dc",
    "dm",
    "dsa",
    "ftd",
    "get_method",
    "herding",
    "idc",
    "idm",
    "kcenter",
    "kmeans",
    "list_methods",
    "mtt",
    "ncfm",
    "random",
]
