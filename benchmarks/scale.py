"""What units of work take, how two processes share them, and how long the published grid would take on a cluster.

    python benchmarks/scale.py throughput [--runs 3] [--units 8]
    python benchmarks/scale.py units [--ray]
    python benchmarks/scale.py times FILE [--methods mtt dm ...] [--datasets cifar10 ...] [--device cuda]
    python benchmarks/scale.py simulate FILE [--seeds 5] [--gpus 1 8 64 512] [--faster 1]

`throughput` trains equal experts, of one thread each, one at a time and two at a time, in turn. `units` does one unit
of each kind in a process of its own, and with --ray by a worker too. `times` rehearses every published row, as the verb
`check` does, on random images of the data set's shape and number, and adds what it finds to FILE (JSON); rows that are
there are left. `simulate` plays the grid of these rows on clusters. All but `times` print Markdown for docs/scale.md.

The simulation: units are taken in the grid's order by GPUs that are free, each unit alone on its GPU; it takes what was
rehearsed, divided by --faster, and --start seconds before that. A GPU is lost after times that are exponentially
distributed with mean --mtbf hours; its unit begins anew elsewhere, at most RETRIES times, and the GPU is back after
--repair hours. Results come back one after the other, at --bandwidth MB/s. "Cells" trains the experts of a cell within
it; "experts first" makes each expert a unit (`condense buffer`), on a disk that all share, before the cells.
"""

import argparse
import heapq
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from page import machine

from condense import api
from condense.bench import run_bench
from condense.config import Layer, resolve, rows
from condense.errors import CondenseError
from condense.estimate import estimate
from condense.methods import METHODS, ExpertConfig
from condense.scale import Local, Ray
from condense.scale.cluster import RETRIES

SHAPES = {
    "mnist": (60000, 28, 1, 10),
    "fashion_mnist": (60000, 28, 1, 10),
    "svhn": (73257, 32, 3, 10),
    "cifar10": (50000, 32, 3, 10),
    "cifar100": (50000, 32, 3, 100),
    "tiny_imagenet": (100000, 64, 3, 200),
}
"""Training images, their side, channels, classes."""
TESTED = 10000
SNAPSHOT_BYTES = 4 * 320_010
"""Of an expert after an epoch: the ConvNet of width 128 and depth 3 on CIFAR-10."""
SMALL = {"recipe": "none", "network": "convnet:width=32", "ipc": 1, "baselines": [], "full_data": False}
GRID = """
methods = ["dm"]
ipc = [1]
datasets = ["digits"]
seeds = [0]
networks = ["convnet:width=32"]
protocol = "quick"
baselines = []
[set]
network = "convnet:width=32"
"""


class OneThread(Local):
    """So many processes at a time, of one thread each."""

    threads = 1


def expert(folder: Path, experts: int, **values: Any) -> dict[str, Any]:
    """The configuration of experts on digits, some seconds each."""
    given = {"method": "mtt", "buffer": folder, "num_experts": experts, "max_start_epoch": 1, "expert_epochs": 20}
    return SMALL | given | values


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def throughput(runs: int, units: int) -> None:
    """Units an hour of one process and of two."""
    taken: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as place:
        for run in range(runs):
            for jobs in taken:
                config = resolve([Layer("benchmark", expert(Path(place) / f"{run}-{jobs}", units))])
                taken[jobs].append(seconds(lambda c=config, j=jobs: api.train_buffer(c, OneThread(j))))
    ratios = sorted(one / two for one, two in zip(*taken.values(), strict=True))
    print(f"{machine()}; {units} experts on digits, one thread each, medians of {runs} runs in turn\n")
    print("| processes | seconds | experts an hour |\n|---|---|---|")
    for jobs, values in taken.items():
        print(f"| {jobs} | {median(values):.1f} | {3600 * units / median(values):.0f} |")
    print(f"\nratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def measure_units(with_ray: bool) -> None:
    """One unit of each kind, in a process of its own and by a Ray worker."""
    places: dict[str, Callable[[], Any]] = {"own process": OneThread}
    if with_ray:
        places["Ray worker"] = lambda: Ray(jobs=1)
    print(f"{machine()}; digits, ConvNet of width 32, one unit with its start and its end\n")
    print(f"| unit | {' | '.join(places)} |\n|---{'|---' * len(places)}|")
    found: dict[str, list[float]] = {}
    for number, make in enumerate(places.values()):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            os.environ["CONDENSE_CACHE"] = str(folder / "cache")
            (folder / "grid.toml").write_text(GRID, encoding="utf-8")
            buffer = resolve([Layer("benchmark", expert(folder / "store", 1))])
            pool = {"method": "rded", "teachers": ["convnet:width=32,norm=batch"], "teacher_epochs": 20}
            teacher = resolve([Layer("benchmark", SMALL | pool)])
            cell = folder / "bench" / "cells" / "digits-dm-ipc1-seed0" / "distilled"
            work = {
                "expert, 20 epochs": lambda c=buffer, m=make: api.train_buffer(c, m()),
                "teacher, 20 epochs": lambda c=teacher, m=make: api.train_buffer(c, m()),
                "cell, dm": lambda f=folder, m=make: run_bench(f / "grid.toml", f / "bench", m()),
                "network of an evaluation": lambda c=cell, m=make: api.evaluate_artifact(c, (), m(), eval_repeats=1),
            }
            for name, do in work.items():
                found.setdefault(name, []).append(seconds(do))
                assert len(found[name]) == number + 1
    for name, values in found.items():
        print(f"| {name} | {' | '.join(f'{value:.1f} s' for value in values)} |")


def images(file: Path, dataset: str) -> None:
    """Random images of a data set's shape."""
    count, side, channels, classes = SHAPES[dataset]
    draws = np.random.default_rng(0)
    labels = np.arange(count) % classes
    train, test = (draws.integers(256, size=(n, side, side, channels), dtype=np.uint8) for n in (count, TESTED))
    np.savez(file, x_train=train, y_train=labels, x_test=test, y_test=labels[:TESTED])


def rehearse_rows(file: Path, methods: list[str], datasets: list[str], device: str) -> None:
    """Add the seconds of each phase of each published row to the file."""
    found = json.loads(file.read_text()) if file.exists() else []
    known = {(entry["method"], entry["dataset"], entry["ipc"]) for entry in found}
    with tempfile.TemporaryDirectory() as place:
        for dataset in datasets:
            data = Path(place) / f"{dataset}.npz"
            wanted = [row | {"method": method} for method in methods for row in rows(method)]
            wanted = [row for row in wanted if row["recipe"] == "published" and row.get("dataset") == dataset]
            wanted = [row for row in wanted if (row["method"], dataset, row["ipc"]) not in known]
            if wanted:
                images(data, dataset)
            for row in wanted:
                values = {"method": row["method"], "ipc": row["ipc"], "dataset": f"npz:{data}", "device": device}
                values |= {"recipe": f"published:{dataset}", "baselines": [], "full_data": False}
                entry: dict[str, Any] = {"method": row["method"], "dataset": dataset, "ipc": row["ipc"]}
                try:
                    resolved, problem = api.prepare(resolve([Layer("benchmark", values)]))
                    entry["seconds"] = estimate(resolved, problem).seconds
                except CondenseError as error:
                    print(f"left out: {entry}: {error}")
                    continue
                method = resolved.method
                if isinstance(method, ExpertConfig):
                    entry["experts"] = method.num_experts
                    entry["epochs"] = method.expert_plan(resolved.run.dsa).epochs
                entry["machine"] = machine()
                found.append(entry)
                file.write_text(json.dumps(found, indent=1), encoding="utf-8")
                print(f"{entry['method']} {dataset} ipc {row['ipc']}: {sum(entry['seconds'].values()) / 3600:.2f} h")


@dataclass(frozen=True)
class Job:
    """A unit in the simulation: hours of a GPU, bytes of its result."""

    hours: float
    size: float


@dataclass(frozen=True)
class Played:
    """What a simulation found: hours until the end, GPU hours that were lost with their GPUs, units given up."""

    hours: float
    lost: float
    losses: int
    given_up: int


def play(jobs: list[Job], gpus: int, draws: random.Random, cluster: argparse.Namespace) -> Played:
    """The jobs in order on so many GPUs, as `condense.scale.cluster` hands them out."""
    free = [(0.0, gpu) for gpu in range(gpus)]  # when each GPU is free
    fails = [draws.expovariate(1 / cluster.mtbf) for _ in range(gpus)]
    lost, ends = 0.0, []
    losses = given_up = 0
    waiting = [(0.0, number, 0) for number in range(len(jobs))]  # from when on, which, after how many losses
    heapq.heapify(waiting)
    while waiting:
        since, number, tries = heapq.heappop(waiting)
        now, gpu = heapq.heappop(free)
        begin = max(since, now)
        while fails[gpu] <= begin:  # it was lost while nothing was on it
            begin = max(begin, fails[gpu] + cluster.repair)
            fails[gpu] += cluster.repair + draws.expovariate(1 / cluster.mtbf)
        end = begin + cluster.start / 3600 + jobs[number].hours
        if fails[gpu] < end:
            losses += 1
            lost += fails[gpu] - begin
            if tries < RETRIES:
                heapq.heappush(waiting, (fails[gpu], number, tries + 1))
            else:
                given_up += 1
            heapq.heappush(free, (fails[gpu] + cluster.repair, gpu))
            fails[gpu] += cluster.repair + draws.expovariate(1 / cluster.mtbf)
            continue
        ends.append((end, jobs[number].size))
        heapq.heappush(free, (end, gpu))
    written = 0.0
    for end, size in sorted(ends):
        written = max(written, end) + size / (cluster.bandwidth * 1e6) / 3600
    return Played(written, lost, losses, given_up)


def plans(found: list[dict[str, Any]], seeds: int, faster: float) -> Iterator[tuple[str, list[list[Job]]]]:
    """Two ways to do the grid: stages of jobs, each stage after the one before."""
    cell_bytes = 1e7
    whole, experts, rest = [], [], []
    for entry in found * seeds:
        phases = {name: taken / 3600 / faster for name, taken in entry["seconds"].items()}
        whole.append(Job(sum(phases.values()), cell_bytes))
        rest.append(Job(sum(phases.values()) - phases.get("experts", 0), cell_bytes))
        if count := entry.get("experts"):
            one = Job(phases["experts"] / count, entry["epochs"] * SNAPSHOT_BYTES)
            experts += [one] * count
    yield "cells", [whole]
    yield "experts first", [experts, rest]


def simulate(cluster: argparse.Namespace) -> None:
    found = json.loads(cluster.file.read_text())
    print(
        f"{len(found)} published rows x {cluster.seeds} seeds; times of {found[0]['machine']}, {cluster.faster:g} times"
    )
    print(f"as fast; {cluster.start:g} s to start a unit, a GPU lost every {cluster.mtbf:g} h and back after")
    print(f"{cluster.repair:g} h, results at {cluster.bandwidth:g} MB/s; medians of {cluster.plays} simulations\n")
    print("| plan | GPUs | hours | best possible | GPUs at work | losses | GPU hours lost | given up |")
    print("|---|---|---|---|---|---|---|---|")
    for name, stages in plans(found, cluster.seeds, cluster.faster):
        hours = sum(job.hours for stage in stages for job in stage)
        for gpus in cluster.gpus:
            best = sum(max(sum(j.hours for j in s) / gpus, max((j.hours for j in s), default=0)) for s in stages)
            played = [
                [play(stage, gpus, random.Random(f"{seed} {place}"), cluster) for place, stage in enumerate(stages)]
                for seed in range(cluster.plays)
            ]
            taken, lost = (median(sum(getattr(p, key) for p in run) for run in played) for key in ("hours", "lost"))
            losses, gone = (
                median(sum(getattr(p, key) for p in run) for run in played) for key in ("losses", "given_up")
            )
            share = f"{100 * hours / (gpus * taken):.0f} %"
            print(f"| {name} | {gpus} | {taken:.1f} | {best:.1f} | {share} | {losses:g} | {lost:.1f} | {gone:g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    of_two = what.add_parser("throughput")
    of_two.add_argument("--runs", type=int, default=3)
    of_two.add_argument("--units", type=int, default=8)
    what.add_parser("units").add_argument("--ray", action="store_true")
    of_rows = what.add_parser("times")
    of_rows.add_argument("file", type=Path)
    of_rows.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    of_rows.add_argument("--datasets", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    of_rows.add_argument("--device", default="auto")
    of_grid = what.add_parser("simulate")
    of_grid.add_argument("file", type=Path)
    of_grid.add_argument("--seeds", type=int, default=5)
    of_grid.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    of_grid.add_argument("--faster", type=float, default=1, help="than the machine that the times are of")
    of_grid.add_argument("--start", type=float, default=15, help="seconds before a unit begins")
    of_grid.add_argument("--mtbf", type=float, default=1000, help="hours until a GPU is lost, on average")
    of_grid.add_argument("--repair", type=float, default=1, help="hours until it is back")
    of_grid.add_argument("--bandwidth", type=float, default=100, help="MB/s at which results come back")
    of_grid.add_argument("--plays", type=int, default=5)
    given = parser.parse_args()
    match given.what:
        case "throughput":
            throughput(given.runs, given.units)
        case "units":
            measure_units(given.ray)
        case "times":
            rehearse_rows(given.file, given.methods, given.datasets, given.device)
        case "simulate":
            simulate(given)


if __name__ == "__main__":
    main()
