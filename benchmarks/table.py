"""Every cell of the table "CIFAR-10 and Fashion-MNIST on two cores" in docs/results.md, and the table.

    python benchmarks/table.py --data-root DATA --out RUNS [--jobs 2] [--only cifar10-dm-ipc1 ...]

Each cell is one `condense run` with the recipe `small`, in a folder of its own under RUNS. What is finished there is
read, what was interrupted goes on, so the command may be stopped and given again. The jobs share the processor's cores.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import results

NAMES = ("dc", "dsa", "idc", "dm", "ncfm", "datadam", "mtt", "ftd", "tesla", "datm", "ast")
METHODS: dict[str, list[str]] = {name: [] for name in NAMES}
METHODS |= {f"{name}-flip": ["--set", "flip=true"] for name in ("dm", "ftd")}
SIZES = (10, 1)
"""ipc; in this order, since the experts of the first are trained for longer and serve the second too."""


def cell(dataset: str, label: str, ipc: int, data_root: Path, folder: Path, threads: int) -> str:
    """Run or continue one cell; what it says goes to a file beside its folder."""
    if (folder / "result.json").exists():
        return f"{folder.name}: was done"
    command = [sys.executable, "-m", "condense"]
    if folder.exists():
        command += ["resume", str(folder)]
    else:
        command += ["run", "--method", label.removesuffix("-flip"), "--ipc", str(ipc), "--dataset", dataset]
        command += ["--data-root", str(data_root), "--set", "recipe=small", "--set", "full_data=false", *METHODS[label]]
        command += ["--out", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with folder.with_suffix(".log").open("a") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    return f"{folder.name}: {'done' if done.returncode == 0 else f'failed, see {log.name}'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--only", nargs="*", help="names of cells; none: all of them")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    folders: list[Path] = []
    with ThreadPoolExecutor(given.jobs) as pool:
        running = []
        for dataset, ipc, label in product(("cifar10", "fashion_mnist"), SIZES, METHODS):
            folder = given.out / f"{dataset}-{label}-ipc{ipc}"
            if not given.only or folder.name in given.only:
                folders.append(folder)
                running.append(pool.submit(cell, dataset, label, ipc, given.data_root, folder, threads))
        for each in running:
            print(each.result(), flush=True)
    results.main([str(folder) for folder in folders if (folder / "result.json").exists()])


if __name__ == "__main__":
    main()
