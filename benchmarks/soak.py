"""Short runs again and again in one process: do memory, threads or open files grow?

    python benchmarks/soak.py --minutes 60

Each round distils with a method of each family, evaluates, stops and resumes, and exports; then a line says what the
process holds. The first quarter of the time is for what grows once: libraries, caches, the heap. After it, a line is
fitted to the resident memory (least squares), and it may rise by 5 % of itself at most until the end; threads and open
files may not rise at all. Exit code 1 if they do.
"""

import argparse
import gc
import os
import re
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from condense import api
from condense.artifact import export, load_artifact
from condense.config import Layer, resolve
from condense.runs import Stopped

SMALL = {
    "network": "convnet:width=8,depth=2",
    "recipe": "none",
    "compile": "off",
    "eval_repeats": 1,
    "baselines": (),
    "full_data": False,
    "iterations": 4,
    "checkpoint_every": 2,
    "eval_every": 2,
}
EXPERTS = {"num_experts": 1, "max_start_epoch": 1, "expert_epochs": 1, "syn_steps": 2}
POOL = {"teachers": ("convnet:width=8,depth=2,norm=batch",), "teacher_epochs": 1, "label_epochs": 2, "ipc": 2}
METHODS = {"ftd": EXPERTS, "dm": {}, "dc": {}, "sre2l": POOL, "idm": {}}
ALLOWED = 0.05


class Held(NamedTuple):
    """What the process holds: seconds since the start, resident bytes, threads of the system, open files."""

    seconds: float
    resident: int
    threads: int
    files: int


def held(began: float) -> Held:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    numbers = [int(re.search(rf"^{key}:\s*(\d+)", status, re.MULTILINE)[1]) for key in ("VmRSS", "Threads")]
    files = sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # but for the look itself
    return Held(time.monotonic() - began, numbers[0] * 1024, numbers[1], files)


def one_round(folder: Path) -> None:
    """Of the methods; each is stopped once on its way."""
    for name, values in METHODS.items():
        run = folder / name
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # where it comes too early or too late
        try:
            api.run(resolve([Layer("soak", {"method": name, "ipc": 1} | SMALL | values)]), run)
        except Stopped:
            api.resume(run)
        finally:
            time.sleep(0.2)
            signal.signal(signal.SIGTERM, previous)
        artifact = load_artifact(run / "distilled")
        for format in ("pt", "npz", "png"):
            export(artifact, folder / f"{name}.{format}", format)


def report(found: list[Held]) -> bool:
    """Print the verdict, and return whether nothing grows."""
    late = [each for each in found if each.seconds >= found[-1].seconds / 4]
    seconds, resident = (np.array([each[place] for each in late], float) for place in (0, 1))
    slope = np.polyfit(seconds, resident, 1)[0] if len(late) > 1 else 0.0
    rise = slope * (seconds[-1] - seconds[0]) / resident[0]
    threads, files = (max(each[place] for each in late) - late[0][place] for place in (2, 3))
    print(
        f"{len(found)} rounds, {len(found) * len(METHODS)} runs, {found[-1].seconds / 60:.0f} min. After a quarter: "
        f"memory {resident[0] / 1e6:.0f} MB, rising by {rise:.1%} until the end; "
        f"threads {late[0].threads}, +{threads}; open files {late[0].files}, +{files}"
    )
    return rise <= ALLOWED and threads <= 0 and files <= 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    minutes = parser.parse_args().minutes
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CONDENSE_CACHE"] = cache
        while not found or found[-1].seconds < 60 * minutes:
            with tempfile.TemporaryDirectory() as folder:
                one_round(Path(folder))
            found.append(held(began))
            seconds, resident, threads, files = found[-1]
            now = f"{resident / 1e6:.1f} MB, {threads} threads, {files} open files"
            print(f"round {len(found)}: {seconds:.0f} s, {now}", flush=True)
    sys.exit(0 if report(found) else 1)


if __name__ == "__main__":
    main()
