"""condense: dataset distillation. The public names are loaded when first used, so importing this is instant."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from condense.allocator import tune_allocator
    from condense.api import RunResult, distill, evaluate, resume
    from condense.artifact import Artifact
    from condense.artifact import load_artifact as load
    from condense.methods import list_methods

_PUBLIC = {
    "Artifact": ("condense.artifact", "Artifact"),
    "RunResult": ("condense.api", "RunResult"),
    "distill": ("condense.api", "distill"),
    "evaluate": ("condense.api", "evaluate"),
    "list_methods": ("condense.methods", "list_methods"),
    "load": ("condense.artifact", "load_artifact"),
    "resume": ("condense.api", "resume"),
    "tune_allocator": ("condense.allocator", "tune_allocator"),
}

__all__ = ["Artifact", "RunResult", "distill", "evaluate", "list_methods", "load", "resume", "tune_allocator"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'condense' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)
