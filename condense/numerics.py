"""What decides the bits of a result beside its configuration: how this process adds floating-point numbers."""

import hashlib

import torch

CAPABILITY_LINE = "CPU capability usage"


def describe(device: torch.device) -> dict[str, str]:
    """In words: threads, instruction set, version and build of torch, and what the tensors are on.

    Two processes that say the same give the same bits for the same configuration; others may.
    """
    build = "\n".join(line for line in torch.__config__.show().splitlines() if CAPABILITY_LINE not in line)
    return {
        "threads": str(torch.get_num_threads()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": f"{torch.__version__} (build {hashlib.sha256(build.encode()).hexdigest()[:12]})",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
