"""This package beside other code for the same units of work, in turn, each in a process of its own.

    python benchmarks/compare.py YARDSTICK [--runs 5] [--cases trajectory dm ...] [--write]

YARDSTICK is a program with the sub-commands, options and output line of benchmarks/steps.py. Each run of a case starts
the one and then the other, so that a machine whose speed drifts is the same for both. Prints a Markdown table: medians
over the runs, and the ratio of each run in words of its median, least and greatest. --write puts it into
docs/benchmarks.md, between the two comments that mark its place.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

STEPS = Path(__file__).with_name("steps.py")
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MARKS = ("<!-- comparison -->", "<!-- end of comparison -->")


class Case(NamedTuple):
    """What is measured, in words, and the arguments of the yardstick and ours."""

    what: str
    theirs: str
    ours: str


CASES = {
    "trajectory": Case("MTT iteration, N 10, batch 100", *2 * ["trajectory --steps 10 --batch 100"]),
    "small-batch": Case("MTT iteration, N 50, batch 10", *2 * ["trajectory --steps 50 --batch 10"]),
    "tesla": Case(
        "TESLA iteration, N 10, batch 100, against the exact gradient",
        "tesla --steps 10 --batch 100",
        "trajectory --steps 10 --batch 100",
    ),
    "dm": Case("DM iteration, ipc 10, 256 real images per class", *2 * ["dm"]),
    "gm": Case("DC iteration, ipc 10, 256 real images per class", *2 * ["gm"]),
    "expert": Case("expert, one epoch of 2560 images", *2 * ["expert --images 2560"]),
    "eval": Case("evaluation network, 20 epochs of 100 images", *2 * ["eval --epochs 20"]),
}


class Measured(NamedTuple):
    seconds: float
    peak_mb: float


def measure(program: Path, arguments: str) -> Measured:
    printed = subprocess.run(
        [sys.executable, str(program), *arguments.split()], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"seconds (\S+) peak_mb (\S+)", printed)
    assert found is not None, printed
    return Measured(float(found[1]), float(found[2]))


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
    parser.add_argument("yardstick", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=STEPS.parent, check=True, capture_output=True, text=True
    ).stdout.strip()
    lines = [
        f"n = {given.runs} alternating runs, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, torch {torch.__version__}, commit {commit}.",
        "",
        "| unit of work | theirs, s | ours, s | ratio | theirs, MB | ours, MB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name in given.cases:
        case = CASES[name]
        pairs = [(measure(given.yardstick, case.theirs), measure(STEPS, case.ours)) for _ in range(given.runs)]
        lines.append(row(case, pairs))
        print(lines[-1], flush=True)
    if given.write:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(MARKS[0])
        _, after = rest.split(MARKS[1])
        PAGE.write_text(f"{before}{MARKS[0]}\n" + "\n".join(lines) + f"\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
