"""torchvision, importable beside any build of torch: `from condense._torchvision import torchvision`.

PyPI's wheel of torchvision is built for CUDA. Beside a CPU build of torch its compiled operators cannot be loaded, and
the import then stops where it attaches shape functions to two operators that do not exist. Models, data sets and
transforms need neither: declaring the schemas of the two is enough. This is done only after that very failure.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from torch.library import Library

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declared: Library | None = None  # the declarations last as long as this object


def _import() -> ModuleType:
    global _declared
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared is not None or "operator torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half loaded
    _declared = Library("torchvision", "FRAGMENT")
    _declared.define("nms" + _SCHEMA)
    _declared.define("qnms" + _SCHEMA)
    return importlib.import_module("torchvision")


torchvision: Any = _import()
