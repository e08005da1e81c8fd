"""What making something took, wall time and memory; and bytes in words."""

import re
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import torch

STATUS = Path("/proc/self/status")


def peak_resident() -> int:
    """The most bytes of memory that this process has held at a time.

    Linux counts in ru_maxrss what the process that started this one held too; its file for each process does not.
    """
    if STATUS.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True)
class Cost:
    """Wall seconds, and the most bytes of memory that were held at a time: by the process, on CUDA by its tensors."""

    seconds: float
    peak_bytes: int

    def after(self, before: Optional["Cost"]) -> Optional["Cost"]:
        """The cost of both, one after the other; None where that of the first is not known."""
        if before is None:
            return None
        return Cost(before.seconds + self.seconds, max(before.peak_bytes, self.peak_bytes))


NOTHING = Cost(0.0, 0)


class Meter:
    """The cost of what happens from now on. The memory is the peak of the process so far, whatever it was for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.perf_counter()

    def read(self) -> Cost:
        cuda = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if cuda else peak_resident()
        return Cost(time.perf_counter() - self._began, peak)


def size(count: float) -> str:
    """Bytes for people: 640 B, 2.6 kB, 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
