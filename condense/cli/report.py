"""What the verbs print: text in columns and JSON on stdout, tables of results on stderr."""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from condense.api import RunResult
from condense.artifact import Manifest, StoreRecord, read_manifest, stored_bytes
from condense.artifact.format import PREVIEW, ImagesRecord
from condense.comparison import FULL_DATA
from condense.config import Resolved, fields, rows
from condense.costs import size
from condense.data import DATASETS
from condense.estimate import Estimate
from condense.evaluation import Evaluation, load_protocols, paired_difference, percent
from condense.methods import METHODS, Condenser, Problem, get_method
from condense.networks import NETWORKS
from condense.robustness import Interval, Robustness
from condense.text import printable


def columns(table: Sequence[Sequence[str]]) -> str:
    """Rows of words, aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def word(value: Any) -> str:
    """A value of the configuration as --set takes it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def print_json(content: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def print_run(result: RunResult, as_json: bool) -> None:
    """A table for each network and the paths on stderr; with `as_json` the object of docs/cli.md on stdout."""
    method = read_manifest(result.artifact).method.name
    for index, ours in enumerate(result.evaluations):
        sets = {name: evaluations[index] for name, evaluations in result.baselines.items()}
        full = {FULL_DATA: sets.pop(FULL_DATA)} if FULL_DATA in sets else {}
        _print_table({**sets, method: ours, **full})
        if "random" in sets and ours.n > 1:
            _say(difference(method, ours, sets["random"]))
    _say(f"artifact  {result.artifact}")
    _say(f"preview   {result.artifact / PREVIEW}")
    if as_json:
        baselines = {name: _with_all(evaluations) for name, evaluations in result.baselines.items()}
        print_json(_object(result.artifact, result.run, result.evaluations, baselines))


def print_evaluations(artifact: Path, evaluations: Sequence[Evaluation], as_json: bool) -> None:
    """As `print_run`, for a set that was evaluated alone."""
    method = read_manifest(artifact).method.name
    for evaluation in evaluations:
        _print_table({method: evaluation})
    if as_json:
        print_json(_object(artifact, None, evaluations, {}))


def print_robustness(artifact: Path, found: Robustness, as_json: bool) -> None:
    """Every row in a table and the scores on stderr; with `as_json` the object of docs/cli.md on stdout."""
    first = found.evaluations[0]
    _say(f"{first.network}, protocol {first.protocol}, and the same with other augmentations and labels")
    _say("test accuracy in %, over n networks")
    table = Table("training set", "network", "labels", "augmentation")
    for heading in ("accuracy", "n", "lr"):
        table.add_column(heading, justify="right")
    for row in found.rows:
        network = row.evaluation.network.removeprefix("torchvision:").partition(":")[0]
        table.add_row(
            row.training, network, row.labels, row.augmentation, *_numbers(row.evaluation), _lr(row.evaluation)
        )
    Console(stderr=True).print(table)
    transfer = "no other networks" if found.mean_transfer is None else f"{100 * found.mean_transfer:.1f} %"
    _say(f"HLR  {percent(*found.hlr, '+')} points: the full data minus the set, hard labels; smaller is better")
    _say(f"IOR  {percent(*found.ior, '+')} points: the set minus random images; larger is better")
    _say(f"LRS  {found.lrs:.3f}   ARS  {found.ars:.3f}   from 0 to 1; the ARS of random images is 0.269")
    _say(
        f"DC-BENCH  best augmentation {100 * found.best_augmentation:.1f} %, mean over {len(found.ours)} augmentations "
        f"{100 * found.mean_augmentation:.1f} %, mean over transfer networks: {transfer}"
    )
    if as_json:
        print_json(_object(artifact, None, found.evaluations, {}) | {"robustness": _robustness(found)})


def _robustness(found: Robustness) -> dict[str, Any]:
    def interval(of: Interval) -> dict[str, float | None]:
        return dict(zip(("mean", "ci95"), of, strict=True))

    return {
        "rows": [
            {
                "training": row.training,
                "labels": row.labels,
                "augmentation": row.augmentation,
                "evaluation": asdict(row.evaluation),
            }
            for row in found.rows
        ],
        "hlr": interval(found.hlr),
        "ior": interval(found.ior),
        "lrs": found.lrs,
        "ars": found.ars,
        "best_augmentation": found.best_augmentation,
        "mean_augmentation": found.mean_augmentation,
        "mean_transfer": found.mean_transfer,
    }


def difference(method: str, ours: Evaluation, random: Evaluation) -> str:
    """How far the method is above random images, over pairs: fresh network k is the same one in both."""
    mean, ci95 = paired_difference(ours.values, random.values)
    return f"{method} minus random: {percent(mean, ci95, '+')} points, over {ours.n} pairs of equal networks"


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print_table(sets: Mapping[str, Evaluation]) -> None:
    first = next(iter(sets.values()))
    _say(f"{first.network}, protocol {first.protocol}")
    chosen = any(evaluation.pilots for evaluation in sets.values())
    table = Table("training set")
    for heading in ("test accuracy, %", "networks", *(["lr"] if chosen else [])):
        table.add_column(heading, justify="right")
    for name, evaluation in sets.items():
        table.add_row(name, *_numbers(evaluation), *([_lr(evaluation)] if chosen else []))
    Console(stderr=True).print(table)


def _numbers(evaluation: Evaluation) -> tuple[str, str]:
    """Accuracy in percent, and the number of networks."""
    networks = f"{evaluation.n} ({evaluation.diverged} diverged)" if evaluation.diverged else str(evaluation.n)
    return percent(evaluation.mean, evaluation.ci95), networks


def _lr(evaluation: Evaluation) -> str:
    return f"{evaluation.lr:.3g}"


def _with_all(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    return {**asdict(evaluations[0]), "evaluations": [asdict(evaluation) for evaluation in evaluations]}


def _object(
    artifact: Path, run: Path | None, evaluations: Sequence[Evaluation], baselines: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "artifact": str(artifact),
        "run": None if run is None else str(run),
        "evaluation": asdict(evaluations[0]),
        "evaluations": [asdict(evaluation) for evaluation in evaluations],
        "baselines": baselines,
    }


def listing(what: str, method: str | None) -> list[tuple[str, ...]]:
    """What `condense ls` prints: the name first, what it is last."""
    match what:
        case "methods":
            return [
                (name, cls.family, _paper(cls), ", ".join(sorted(need.value for need in cls.needs)) or "-", cls.summary)
                for name, cls in METHODS.items()
            ]
        case "datasets":
            return [(name, source.summary) for name, source in DATASETS.items()]
        case "networks":
            return list(NETWORKS.items())
        case "protocols":
            return [(name, protocol.summary) for name, protocol in load_protocols().items()]
        case "recipes":
            names = sorted(METHODS) if method is None else [get_method(method).name]
            return [
                (name, row["recipe"], row.get("dataset", "any data set"), f"ipc {row['ipc']}", row["source"])
                for name in names
                for row in rows(name)
            ]
    assert what == "keys" and method is not None
    return list(fields(method).items())


def _paper(method: type[Condenser]) -> str:
    """Where its paper is, from the citation."""
    found = re.search(r"(eprint|doi) = \{([^}]+)\}", method.citation)
    assert found, method.name
    return f"arXiv {found[2]}" if found[1] == "eprint" else f"doi {found[2]}"


def manifest_text(manifest: Manifest) -> str:
    """A summary of a distilled set in columns, which may be a stranger's."""
    stored = stored_bytes(manifest)
    n, channels, height, width = manifest.images.shape
    evaluations = [
        ("evaluation", f"{percent(e.mean, e.ci95)} % on {e.network}, protocol {e.protocol}, {e.n} networks")
        for e in manifest.evaluations
    ]
    lines = [
        ("method", f"{manifest.method.name}, {manifest.method.ipc} images per class"),
        ("dataset", f"{manifest.dataset.name} ({manifest.dataset.source})"),
        ("images", f"{n} of {channels}x{height}x{width}" + _decoded(manifest.images)),
        ("labels", f"{manifest.labels.kind}, {len(manifest.classes)} classes: {', '.join(manifest.classes)}"),
        *([("store", _store(manifest.store))] if manifest.store is not None else []),
        ("preprocessing", manifest.preprocessing.kind),
        ("learned lr", "none" if manifest.lr is None else f"{manifest.lr:.6g}"),
        ("bytes", f"{sum(stored.values())}: {', '.join(f'{name} {count}' for name, count in stored.items())}"),
        *evaluations,
        ("made", f"{manifest.created} with {', '.join(f'{k} {v}' for k, v in manifest.versions.items())}"),
        *(("bits", ", ".join(f"{key} {value}" for key, value in part.items())) for part in manifest.numerics),
        *((name, f"{payload.bytes} bytes, SHA-256 {payload.sha256}") for name, payload in manifest.payload.items()),
    ]
    return columns([(printable(name), printable(words)) for name, words in lines])


def _store(record: StoreRecord) -> str:
    group = "" if record.group is None else f", groups of {record.group}"
    return f"{record.kind} for {record.epochs} epochs, batches of {record.batch}{group}, weight {record.weight:g}"


def _decoded(record: ImagesRecord) -> str:
    if record.compensators is not None:
        groups, of_each = record.compensators
        what = f", and {groups * of_each} compensators"
    elif record.factor > 1:
        what = f", mosaics of {record.factor}x{record.factor}"
    else:
        return ""
    return f"{what}: {record.trained_on} images to train on"


def check_rows(resolved: Resolved, problem: Problem, estimate: Estimate) -> list[tuple[str, str]]:
    """What `condense check` prints."""
    r, data = resolved.run, problem.data
    counts = f"{len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test images"
    form = f"{data.channels}x{data.size}x{data.size}, {data.num_classes} classes"
    return [
        ("configuration", f"complete: {r.method}, ipc {r.ipc}, {r.dataset}, seed {r.seed}, on {problem.device}"),
        ("data", f"{counts}, {form} ({data.source})"),
        ("network", f"{problem.network.name}, {problem.network.num_parameters} parameters"),
        ("compile", f"{r.compile} ({resolved.origins['compile']})"),
        *([("micro_batch", f"{word(r.micro_batch)} ({resolved.origins['micro_batch']})")] if r.memory_limit else []),
        ("", "estimates from a rehearsal of the run; nothing was trained"),
        ("disk", _sum(estimate.disk)),
        ("memory", f"about {size(max(estimate.peaks.values()))} at most"),
        ("time", f"about {_duration(sum(estimate.seconds.values()))}"),
        *((f"  {name}", f"{_duration(s)}, {size(estimate.peaks[name])}") for name, s in estimate.seconds.items()),
        *([("  compiling", f"{_duration(estimate.compiling)}, done now")] if estimate.compiling else []),
    ]


def _sum(parts: Mapping[str, float]) -> str:
    named = ", ".join(f"{name} {size(count)}" for name, count in parts.items() if count)
    return f"about {size(sum(parts.values()))} ({named})"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=math.ceil(seconds)))
