"""A bench that nobody ran: folders as `condense bench` leaves them, with numbers that are made up."""

import json
import math
from pathlib import Path
from random import Random

import torch

from condense.artifact import DatasetRecord, MethodRecord, save_artifact
from condense.bench.folder import BenchFolder, Record
from condense.bench.grid import read_grid
from condense.costs import Cost
from condense.data import Preprocessing
from condense.runs.config_file import to_toml
from condense.synthetic import DistilledSet

CLASSES, SIZE = 3, 6
MACHINE = {"processor": "an abacus", "cores": "2", "torch": "2.13.0", "condense": "0.1.0"}


def grid_text(tables="", **changes):
    """A grid as TOML; `changes` are its own lists, `tables` are added to those that are there."""
    lists = {
        "methods": ["dm", "mtt", "dm-flip"],
        "ipc": [1, 10],
        "datasets": ["digits"],
        "seeds": [0, 1, 2],
        "networks": ["convnet", "mlp", "resnet18:norm=batch"],
        "protocol": "quick",
        "baselines": ["random", "kmeans"],
    } | changes
    lines = [f"{key} = {json.dumps(value)}" for key, value in lists.items()]
    return "\n".join([*lines, "[set]", "eval_repeats = 2", "[method.dm-flip]", 'method = "dm"', "flip = true", tables])


def accuracies(draws, level, n=2):
    return [round(min(max(draws.gauss(level, 0.01), 0), 1), 4) for _ in range(n)]


def evaluation(network, values):
    """As an evaluator with more to say than this version knows would write it."""
    facts = {"lr": 0.01, "epochs": 300, "diverged": 0, "seed": 0, "seconds": 1.0, "updates": 300, "chosen_lr": [0.1]}
    mean = sum(values) / len(values)
    return {
        "network": network,
        "protocol": "quick",
        "n": len(values),
        "mean": mean,
        "ci95": 0.01,
        "values": values,
    } | facts


def fabricate(
    path, *, failed=(), missing=(), classes=tuple("abc"), errors="error: nothing worked", levels=None, **changes
):
    """Write a bench to `path`. `failed` and `missing` are names of cells, `levels` accuracies by label at ipc 1."""
    folder = BenchFolder(path)
    folder.cells.mkdir(parents=True)
    folder.grid.write_text(grid_text(**changes), encoding="utf-8")
    command = f"condense bench grid.toml --out {path.name} --jobs 2"
    folder.write_record(Record(threads=1, jobs=2, command=command, machines=(MACHINE,)))
    grid = read_grid(folder.grid)
    for cell in grid.cells():
        if cell.name in failed:
            folder.error(cell.name).write_text(f"exit code 1\n{errors}", encoding="utf-8")
        elif cell.name not in missing:
            _cell(folder, grid, cell, classes, (levels or {}).get(cell.label))
    return path


def _cell(folder, grid, cell, classes, level):
    draws, run = Random(cell.name), folder.run(cell.name)
    run.mkdir()
    place = grid.labels.index(cell.label)
    level = 0.5 + 0.03 * place if level is None else level
    level += 0.1 * math.log10(cell.ipc)
    learned = cell.label in grid.methods
    config = {"method": grid.base(cell.label), "ipc": cell.ipc, "network": "convnet:width=32", "seed": cell.seed}
    (run / "config.toml").write_text(to_toml(config, dict.fromkeys(config, "grid")), encoding="utf-8")
    losses = [{"iteration": i, "loss": 5 / (i + 1) + draws.random(), "seconds": 0.01} for i in range(200 * learned)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses), encoding="utf-8")

    count = len(classes) * cell.ipc
    generator = torch.Generator().manual_seed(place)
    labels = torch.arange(len(classes)).repeat_interleave(cell.ipc)
    soft = cell.label == "kmeans"
    making = {"distillation": Cost(2.0 * cell.ipc * (place + draws.random()), 400_000_000)}
    if cell.label == "mtt":
        making = {"experts": Cost(30 + draws.random(), 500_000_000)} | making
    save_artifact(
        run / "distilled",
        DistilledSet(
            torch.rand(count, 1, SIZE, SIZE, generator=generator),
            torch.nn.functional.one_hot(labels, len(classes)).float() if soft else labels,
        ),
        preprocessing=Preprocessing("mean_std", {"mean": torch.zeros(1), "std": torch.ones(1)}),
        classes=classes,
        method=MethodRecord(name=grid.base(cell.label), ipc=cell.ipc, citation="none"),
        dataset=DatasetRecord(name=cell.dataset, sha256="0" * 64, source="nowhere"),
        config=config,
        provenance={},
        making=making,
    )
    scores = [evaluation(name, accuracies(draws, level - 0.04 * k)) for k, name in enumerate(grid.networks)]
    full = [evaluation(name, accuracies(draws, 0.9)) for name in grid.networks]
    costs = {part: {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes} for part, cost in making.items()}
    result = {
        "run": str(run),
        "artifact": str(run / "distilled"),
        "evaluations": scores,
        "baselines": {"full data": full} if cell.label == "random" else {},
        "making": costs,
    }
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    import sys

    fabricate(
        Path(sys.argv[1]),
        methods=["dc", "dm", "idc", "datadam", "mtt", "ftd", "ncfm", "dm-flip"],
        baselines=["random", "herding", "kmeans", "kcenter"],
        ipc=[1, 10, 50],
        seeds=[0, 1, 2, 3, 4],
        networks=["convnet", "resnet18", "vgg11", "alexnet", "vit", "mlp", "lenet"],
        datasets=["digits", "fashion_mnist"],
        failed=["digits-mtt-ipc50-seed1", "digits-ftd-ipc50-seed1"],
        missing=["fashion_mnist-ftd-ipc50-seed4"],
        classes=tuple("abcdefghij"),
    )
