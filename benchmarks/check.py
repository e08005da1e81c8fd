"""The peak of memory that `condense check` predicts, against that of the run itself.

    python benchmarks/check.py [--methods dm mtt ...] [--ipc 1 10] [--width 32 128] [--set key=value ...]

Each case is rehearsed and then run, on random images of CIFAR-10's shape: few iterations, one short expert, one network
to evaluate on. Prints a Markdown table with the resident peak of the process of `condense run`, and the worst ratio.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

from condense import api
from condense.config import Layer, fields, parse_assignment, resolve
from condense.costs import size
from condense.estimate import estimate
from condense.methods import METHODS

PER_CLASS = 1100
PROGRAM = """
import atexit, sys
from condense.cli import main
from condense.costs import peak_resident
atexit.register(lambda: print(peak_resident(), file=sys.stderr))
main()
"""
"""`condense`, with the peak of its memory as its last word."""
SHORT = {
    "recipe": "none",
    "iterations": 5,
    "num_experts": 1,
    "max_start_epoch": 1,
    "expert_epochs": 1,
    "pretrain_epochs": 1,
    "queue_size": 6,
    "net_every": 1,
    "eval_networks": "convnet:width=32",
    "eval_repeats": 1,
    "baselines": [],
    "full_data": False,
}
"""Where a method has the key. A queue of networks is full when these iterations are over."""


def images(file: Path) -> None:
    draws = np.random.default_rng(0)
    labels = np.arange(10 * PER_CLASS) % 10
    train, test = (draws.integers(256, size=(n, 32, 32, 3), dtype=np.uint8) for n in (len(labels), 1000))
    np.savez(file, x_train=train, y_train=labels, x_test=test, y_test=labels[:1000])


def predicted(values: dict[str, object]) -> int:
    resolved, problem = api.prepare(resolve([Layer("benchmark", values)]))
    return max(estimate(resolved, problem).peaks.values())


def actual(values: dict[str, object], out: Path) -> int:
    """The resident peak of `condense run` with these values."""
    words = [f"{key}={value!r}" for key, value in values.items()]
    words = [word.replace("True", "true").replace("False", "false") for word in words]
    command = [sys.executable, "-c", PROGRAM, "run", "--out", str(out), "--set", *words]
    with out.with_suffix(".log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    return int(out.with_suffix(".log").read_text().split()[-1])


def main() -> None:
    trained = [name for name in METHODS if METHODS[name].Config.model_fields["iterations"].default]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=trained)
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--width", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--set", nargs="+", default=[])
    given = parser.parse_args()
    worst = 1.0
    print("| method | ipc | width | predicted | actual | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CONDENSE_CACHE": f"{folder}/cache", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled"}
        images(Path(folder) / "images.npz")
        for method, ipc, width in product(given.methods, given.ipc, given.width):
            values = SHORT | dict(map(parse_assignment, given.set))
            values |= {"method": method, "ipc": ipc, "network": f"convnet:width={width}"}
            values = {key: value for key, value in values.items() if key in fields(method)}
            values["dataset"] = f"npz:{folder}/images.npz"
            guess = predicted(values)
            peak = actual(values, Path(folder) / f"{method}-{ipc}-{width}")
            worst = max(worst, guess / peak, peak / guess)
            print(f"| {method} | {ipc} | {width} | {size(guess)} | {size(peak)} | {guess / peak:.3f} |", flush=True)
    print(f"\nThe worst is off by {100 * (worst - 1):.0f} %.")


if __name__ == "__main__":
    main()
