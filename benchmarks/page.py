"""What the benchmark programs share: runs of steps.py, and their place in docs/benchmarks.md."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

STEPS = Path(__file__).with_name("steps.py")
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


class Measured(NamedTuple):
    seconds: float
    peak_mb: float


def measure(program: Path, arguments: str) -> Measured:
    """One run of a program with the output line of steps.py, in a process of its own."""
    printed = subprocess.run(
        [sys.executable, str(program), *arguments.split()], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"seconds (\S+) peak_mb (\S+)", printed)
    assert found is not None, printed
    return Measured(float(found[1]), float(found[2]))


def machine() -> str:
    """Where, and with what, it is measured."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=STEPS.parent, check=True, capture_output=True, text=True).stdout.strip()
    name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else None
    return (
        f"{os.cpu_count()} cores, {name[1] if name else platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, commit {commit}"
    )


def write(mark: str, lines: list[str]) -> None:
    """Put the lines between the comments `<!-- mark -->` and `<!-- end of mark -->` of the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(f"<!-- {mark} -->")
    _, after = rest.split(f"<!-- end of {mark} -->")
    body = "\n".join(lines)
    PAGE.write_text(f"{before}<!-- {mark} -->\n{body}\n<!-- end of {mark} -->{after}", encoding="utf-8")
