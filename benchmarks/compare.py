"""This package beside other code for the same units of work, in turn, each in a process of its own.

    python benchmarks/compare.py YARDSTICK [--runs 5] [--cases trajectory dm ...] [--write]
    python benchmarks/compare.py --precision [--runs 5] [--write]

YARDSTICK is a program with the sub-commands, options and output line of benchmarks/steps.py. Each run of a case starts
the one and then the other, so that a machine whose speed drifts is the same for both. Prints a Markdown table: medians
over the runs, and the ratio of each run in words of its median, least and greatest. --write puts it into
docs/benchmarks.md, between the two comments that mark its place. The cases of --precision have no yardstick: there
bf16 is beside fp32.
"""

import argparse
from pathlib import Path
from statistics import median
from typing import NamedTuple

from page import STEPS, Measured, machine, measure, write


class Case(NamedTuple):
    """What is measured, in words, and the arguments of the yardstick and ours."""

    what: str
    theirs: str
    ours: str


CASES = {
    "trajectory": Case("MTT iteration, N 10, batch 100", *2 * ["trajectory --steps 10 --batch 100 --repeats 2"]),
    "small-batch": Case("MTT iteration, N 50, batch 10", *2 * ["trajectory --steps 50 --batch 10 --repeats 2"]),
    "tesla": Case(
        "TESLA iteration, N 10, batch 100, against the exact gradient",
        "tesla --steps 10 --batch 100 --repeats 2",
        "trajectory --steps 10 --batch 100 --repeats 2",
    ),
    "dm": Case("DM iteration, ipc 10, 256 real images per class", *2 * ["dm --repeats 2"]),
    "gm": Case("DC iteration, ipc 10, 256 real images per class", *2 * ["gm --repeats 2"]),
    "expert": Case("expert, one epoch of 2560 images", *2 * ["expert --images 2560 --repeats 2"]),
    "eval": Case("evaluation network, 20 epochs of 100 images", *2 * ["eval --epochs 20 --repeats 2"]),
}


PRECISION = [
    Case("MTT iteration, N 10, batch 100: fp32, bf16", "trajectory", "trajectory --precision bf16"),
    Case("expert, one epoch of 2560 images: fp32, bf16", "expert", "expert --precision bf16"),
]


def row(case: Case, pairs: list[tuple[Measured, Measured]]) -> str:
    cells = [case.what]
    for field in Measured._fields:
        theirs, ours = ([getattr(pair[k], field) for pair in pairs] for k in (0, 1))
        ratios = [our / their for their, our in zip(theirs, ours, strict=True)]
        digits = ".2f" if field == "seconds" else ".0f"
        cells += [f"{median(theirs):{digits}}", f"{median(ours):{digits}}"]
        cells.append(f"**{median(ratios):.2f}** ({min(ratios):.2f} .. {max(ratios):.2f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yardstick", type=Path, nargs="?")
    parser.add_argument("--precision", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if (given.yardstick is None) != given.precision:
        parser.error("give either a YARDSTICK or --precision")
    lines = [
        f"n = {given.runs} alternating runs. {machine()}.",
        "",
        "| unit of work | theirs, s | ours, s | ratio | theirs, MB | ours, MB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for case in PRECISION if given.precision else [CASES[name] for name in given.cases]:
        program = STEPS if given.precision else given.yardstick
        pairs = [(measure(program, case.theirs), measure(STEPS, case.ours)) for _ in range(given.runs)]
        lines.append(row(case, pairs))
        print(lines[-1], flush=True)
    if given.write:
        write("precision" if given.precision else "comparison", lines)


if __name__ == "__main__":
    main()
