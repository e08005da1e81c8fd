"""Whether compiling a network pays for the work that is planned with it."""

import os
import shutil

import torch
from torch.utils.flop_counter import FlopCounterMode

from condense.loading import load_lazy_torch
from condense.networks.stateless import Network

COMPILE_PAYS = 2e13
"""Floating-point operations: three minutes on two cores, of which compiled code saves more than compiling takes."""
COMPILED_NUMERICS = 2
"""Raised when a change of the code changes the bits that compiled networks give."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which torch.compile needs on the CPU, and TORCH_COMPILE_DISABLE is not set."""
    return os.environ.get("TORCH_COMPILE_DISABLE") != "1" and any(
        map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))
    )


def compiling_pays(operations: float, device: torch.device) -> bool:
    """Only on the CPU: nothing of it has been measured elsewhere."""
    return operations >= COMPILE_PAYS and device.type == "cpu" and has_compiler()


def operations(spec: str, *, channels: int, size: int, classes: int) -> int:
    """Floating-point operations of the matrix products and convolutions for one image forward and backward.

    A pass backward counts as two forward.
    """
    load_lazy_torch()
    network = Network(spec, channels=channels, size=size, classes=classes, device="meta")
    with FlopCounterMode(display=False) as counter:
        theta = torch.empty(network.num_parameters, device="meta")
        network.logits(theta, torch.empty(1, channels, size, size, device="meta"))
    forward: int = counter.get_total_flops()
    return 3 * forward
