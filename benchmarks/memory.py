"""Peak memory of one MTT iteration as the number of inner steps grows, for each way to differentiate it.

    python benchmarks/memory.py [--width 32] [--ipc 10] [--steps 10 40] [--unroll adjoint graph]

Each case is a process of its own and runs the step that `condense run` runs, on random data of CIFAR-10's shape. Prints
a Markdown table: peak resident memory, what of it came on top of the loaded libraries, and the parameter vectors' part.
"""

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import replace

from steps import random_problem

from condense.augment import DSA
from condense.methods import METHODS


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(unroll: str, steps: int, width: int, ipc: int) -> dict[str, float]:
    """One iteration in this process: its peak memory in MB, and the size of one parameter vector."""
    setting = replace(random_problem(f"convnet:width={width}", ipc, ipc, compiled=False), augmentation=DSA())
    mtt = METHODS["mtt"]
    condenser = mtt(mtt.Config.model_validate({"unroll": unroll, "syn_steps": steps, "num_experts": 1}))
    state = condenser.init(setting)
    before = peak_mb()
    condenser.step(state, setting, 0)
    return {"before": before, "peak": peak_mb(), "vector": setting.network.num_parameters * 4 / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--unroll", nargs="+", default=["adjoint", "graph"])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(**json.loads(given.case))))
        return
    print("| unroll | N | peak MB | on top of libraries, MB | N + 1 parameter vectors, MB |")
    print("|---|---|---|---|---|")
    for unroll in given.unroll:
        for steps in given.steps:
            case = json.dumps({"unroll": unroll, "steps": steps, "width": given.width, "ipc": given.ipc})
            command = [sys.executable, __file__, "--case", case]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            extra, vectors = found["peak"] - found["before"], (steps + 1) * found["vector"]
            print(f"| {unroll} | {steps} | {found['peak']:.0f} | {extra:.0f} | {vectors:.1f} |", flush=True)


if __name__ == "__main__":
    main()
