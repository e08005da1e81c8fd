"""How time and memory of one MTT iteration grow with N, ipc, classes and image size.

    python benchmarks/growth.py [--width 128] [--write]

Each case is a run of steps.py in a process of its own: the least of two iterations after the first. Beside the time is
what the convolutions alone would take at the rate that this machine reaches on the network's largest one. --write puts
table and plot into docs/benchmarks.md.
"""

import argparse
import time
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot
from page import PAGE, STEPS, machine, measure, write

from condense.allocator import tune_allocator
from condense.networks import operations

UNITS = 9
"""Forward passes in an inner step: 3 for the gradient and 6 for the derivatives of the slope, where all is kept."""


class Case(NamedTuple):
    """What grows, and what all is; `batch` is the whole synthetic set."""

    grows: str
    steps: int = 10
    batch: int = 50
    classes: int = 10
    size: int = 32


CASES = [
    *(Case("N", steps=steps) for steps in (5, 10, 20, 40)),
    *(Case("ipc", batch=10 * ipc) for ipc in (1, 5, 10, 20)),
    *(Case("classes", batch=classes, classes=classes) for classes in (10, 50, 100)),
    *(Case("image size", batch=10, size=size) for size in (16, 32, 64)),
]


def rate(width: int) -> float:
    """Floating-point operations in a second of a 3x3 convolution of `width` channels on 100 maps of 16x16."""
    x = torch.randn(100, width, 16, 16).contiguous(memory_format=torch.channels_last)
    w = torch.randn(width, width, 3, 3).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        torch.conv2d(x, w, padding=1)
        times.append(time.perf_counter() - start)
    return 2 * 100 * 16 * 16 * width * width * 9 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    tune_allocator()
    reached = rate(given.width)
    lines = [
        f"{machine()}. ConvNet of width {given.width}, one run of each case; convolutions at "
        f"{reached / 1e9:.0f} GFLOP/s.",
        "",
        "| grows | N | images in a step | classes | size | s | convolutions alone, s | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    found = []
    for case in CASES:
        arguments = f"--steps {case.steps} --batch {case.batch} --classes {case.classes} --size {case.size}"
        took = measure(STEPS, f"trajectory {arguments} --width {given.width} --repeats 2")
        spec = f"convnet:width={given.width}"
        pair = operations(spec, channels=3, size=case.size, classes=case.classes)  # forward and backward: 3 passes
        limit = UNITS / 3 * pair * case.steps * case.batch / reached
        found.append((case, took, limit))
        cells = [case.grows, case.steps, case.batch, case.classes, case.size]
        lines.append(f"| {' | '.join(map(str, cells))} | {took.seconds:.2f} | {limit:.2f} | {took.peak_mb:.0f} |")
        print(lines[-1], flush=True)
    if not given.write:
        return
    kinds = list(dict.fromkeys(case.grows for case in CASES))
    figure, axes = pyplot.subplots(2, len(kinds), figsize=(3 * len(kinds), 5), layout="constrained")
    for kind, (above, below) in zip(kinds, axes.T, strict=True):
        rows = [row for row in found if row[0].grows == kind]
        key = {"N": "steps", "ipc": "batch", "classes": "classes", "image size": "size"}[kind]
        x = [getattr(case, key) / (10 if kind == "ipc" else 1) for case, _, _ in rows]
        above.plot(x, [took.seconds for _, took, _ in rows], "o-", label="measured")
        above.plot(x, [limit for *_, limit in rows], "--", label="convolutions alone")
        below.plot(x, [took.peak_mb for _, took, _ in rows], "o-")
        above.set(title=kind, ylim=(0, None))
        below.set(xlabel=kind, ylim=(0, None))
    axes[0, 0].set_ylabel("s an iteration")
    axes[1, 0].set_ylabel("peak MB")
    axes[0, 0].legend()
    figure.savefig(PAGE.parent / "images" / "growth.png", dpi=100)
    write("growth", lines)


if __name__ == "__main__":
    main()
