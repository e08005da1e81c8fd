"""What is killed: runs of every method, a buffer, a bench, exports; on a problem of a few seconds."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from problems import SMALL, blobs

from condense.artifact import load_artifact
from condense.bench.grid import LISTS
from condense.config import DISTILLING
from condense.evaluation import Protocol, load_protocol
from condense.methods import METHODS, DecoupledConfig
from condense.runs.config_file import to_toml

KEYS: dict[str, Any] = {
    "ipc": 2,
    "network": "convnet:width=4,depth=2",
    "recipe": "none",
    "compile": "off",
    "protocol": "quick",
    "eval_repeats": 1,
    "eval_networks": ("mlp",),
    "baselines": (),
    "full_data": False,
    "checkpoint_every": 2,
    "seed": 3,
}
IDLE = {
    "sre2l": ("candidates",),
    "cvdd": ("candidates",),
    "infer": ("label_epochs", "label_batch"),
    "kd_subset": ("score_networks", "score_epochs"),
}
"""Of the small settings, what is for other tests: a run refuses keys that do nothing."""
ITERATIONS = 5
TAUGHT = "convnet:width=4,depth=2,norm=batch"
WATCHED = {"checkpoint_every": 1, "eval_every": 2, "tracker": ("tensorboard",)}
"""What looks on at a run, and may change nothing."""
LOOKED_AT = ("seconds", "validation_accuracy")
BENCH = ("dm", "datm", "random_soft")
FORMATS = ("pt", "npz", "png", "folder", "parquet")

Digest = dict[str, str]
Command = list[str]


@dataclass(frozen=True)
class Scenario:
    """`steps` follow each other: each says what is to be typed in a folder as it is now, until that ends well.

    An empty command: there is nothing left to do. `digest` is of what came out.
    """

    name: str
    steps: tuple[Callable[[Path], Command], ...]
    digest: Callable[[Path], Digest]


def brief_protocols() -> dict[str, Protocol]:
    """The two that are used, with training that only takes its time."""
    names = (KEYS["protocol"], DISTILLING)
    return {name: replace(load_protocol(name), epochs=2, full_data_epochs=1, networks=1) for name in names}


def write_data(path: Path) -> None:
    """The blobs of the small problem, as a file that `condense` reads."""
    data = blobs()
    arrays = {"x_train": data.train.images, "y_train": data.train.labels}
    arrays |= {"x_test": data.test.images, "y_test": data.test.labels}
    np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})


def keys(method: str, data: Path) -> dict[str, Any]:
    """The keys of a small run; of what a method learns or trains only a little."""
    config = METHODS[method].Config
    values = SMALL.get(method, {}) | KEYS | {"method": method, "dataset": f"npz:{data}"}
    if config.model_fields["iterations"].default:
        values["iterations"] = ITERATIONS
    if issubclass(config, DecoupledConfig):
        values |= {"teachers": (TAUGHT, TAUGHT) if len(values["teachers"]) > 1 else (TAUGHT,), "teacher_epochs": 3}
        values["protocol"] = DISTILLING
    values = {key: value for key, value in values.items() if key not in IDLE.get(method, ())}
    return values | ({"teacher_epochs": 2} if "teacher_momentum" in config.model_fields else {})


def toml(values: dict[str, Any]) -> str:
    """As --config and grids have it."""
    known = {key: "none" if value is None else value for key, value in values.items()}
    return to_toml(known, dict.fromkeys(known, "scenario"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def of_run(run: Path) -> Digest:
    """Of every file of the set, its pictures included, every logged number but times, every accuracy."""
    artifact = load_artifact(run / "distilled")
    found = {name: sha256((run / "distilled" / name).read_bytes()) for name in artifact.manifest.payload}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key not in LOOKED_AT} for line in lines]
    result = json.loads((run / "result.json").read_text())
    recorded = [(record.network, record.values) for record in artifact.manifest.evaluations]
    assert recorded == [(e["network"], tuple(e["values"])) for e in result["evaluations"]], "each once"
    assert [line["iteration"] for line in lines] == list(range(len(lines)))
    return found | {"metrics": sha256(json.dumps(kept).encode()), "accuracies": sha256(repr(recorded).encode())}


def run_or_resume(run: Path, config: Path) -> Command:
    if (run / "config.toml").exists():
        return ["resume", str(run)]
    return ["run", "--config", str(config), "--out", str(run)]


def of_method(method: str, root: Path, **changes: Any) -> Scenario:
    config = root / f"{'-'.join([method, *changes])}.toml"
    config.write_text(toml(keys(method, root / "blobs.npz") | changes))
    return Scenario(
        method, (lambda folder: run_or_resume(folder / "run", config),), lambda folder: of_run(folder / "run")
    )


def of_buffer(root: Path) -> Scenario:
    """The experts by a command of their own, with a curriculum, then the run that uses them."""
    run = of_method("pad", root)
    config = str(root / "pad.toml")
    return Scenario("buffer", (lambda _: ["buffer", "--config", config], *run.steps), run.digest)


def of_bench(root: Path, jobs: int) -> Scenario:
    """Two cells at a time."""
    shared = {key: value for key, value in KEYS.items() if key not in LISTS}
    lists = {
        "methods": [method for method in BENCH if method != "random_soft"],
        "ipc": [1],
        "datasets": [f"npz:{root}/blobs.npz"],
        "seeds": [0],
        "networks": ["mlp"],
        "protocol": "quick",
        "baselines": ["random_soft"],
        "threads": 1,
    }
    tables = ["[set]", toml(shared)]
    for method in BENCH:
        own = {key: value for key, value in keys(method, root).items() if key not in KEYS | LISTS}
        tables += [f"[method.{method}]", toml(own)]
    grid = root / "grid.toml"
    grid.write_text("\n".join([toml(lists), *tables]))

    def digest(folder: Path) -> Digest:
        bench = folder / "bench"
        cells = {run.parent.name: of_run(run.parent) for run in sorted(bench.glob("cells/*/result.json"))}
        tables = {
            name: sha256((bench / "report" / name).read_bytes())
            for name in ("accuracy.csv", "accuracy.md", "values.csv", "storage.csv")
        }
        return tables | {f"{cell}/{name}": value for cell, found in cells.items() for name, value in found.items()}

    command = ["bench", str(grid), "--jobs", str(jobs), "--out"]
    return Scenario("bench", (lambda folder: [*command, str(folder / "bench")],), digest)


def of_export(artifact: Path, format: str) -> Scenario:
    def step(folder: Path) -> Command:
        out = folder / "exported"
        return [] if out.exists() else ["export", str(artifact), "--format", format, "--out", str(out)]

    def digest(folder: Path) -> Digest:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and ".tmp-" not in str(path))
        return {str(path.relative_to(folder)): sha256(path.read_bytes()) for path in files if "exported" in str(path)}

    return Scenario(f"export {format}", (step,), digest)
