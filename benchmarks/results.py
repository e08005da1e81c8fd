"""The tables of docs/results.md, from finished runs.

    python benchmarks/results.py RUN [RUN ...]

Prints a Markdown table for each data set and ipc: a row for each run and baseline, with its preprocessing, protocol and
network, the minutes its making took, and its accuracy alone and against random images of the same preprocessing and
seed. Nothing is trained: results are read from the runs' folders.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from condense.api import resume
from condense.artifact import read_manifest
from condense.evaluation import Evaluation, paired_difference, percent


class Row(NamedTuple):
    """One line of the table; `minutes` of distillation."""

    method: str
    preprocessing: str
    minutes: float | None
    evaluation: Evaluation


def minutes(run: Path) -> float | None:
    """What the iterations took; None for a method without any."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line)["seconds"] for line in lines) / 60 if lines else None


def main(runs: list[str]) -> None:
    tables: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for run in map(Path, runs):
        result = resume(run)
        manifest = read_manifest(result.artifact)
        table = tables[manifest.dataset.name, manifest.method.ipc]
        kind = manifest.preprocessing.kind
        label = manifest.method.name + (" + flip" if manifest.config.get("flip") else "")
        table += [Row(label, kind, minutes(run), evaluation) for evaluation in result.evaluations]
        known = [(row.method, row.evaluation) for row in table]
        for name, evaluations in result.baselines.items():
            table += [Row(name, kind, None, e) for e in evaluations if (name, e) not in known]
    for (dataset, ipc), table in sorted(tables.items()):
        print(f"\n{dataset}, ipc {ipc}\n")
        print("| method | preprocessing | minutes | accuracy | minus random | n | protocol |")
        print("|---|---|---|---|---|---|---|")
        for row in sorted(table, key=lambda row: row.evaluation.mean):
            e = row.evaluation
            base = [r.evaluation for r in table if r.method == "random" and r.preprocessing == row.preprocessing]
            pairs = [r for r in base if (r.seed, r.network, r.protocol) == (e.seed, e.network, e.protocol)]
            gain = percent(*paired_difference(e.values, pairs[0].values), "+") if pairs and e not in pairs else ""
            took = "" if row.minutes is None else f"{row.minutes:.1f}"
            cells = (row.method, row.preprocessing, took, percent(e.mean, e.ci95), gain, e.n, e.protocol)
            print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main(sys.argv[1:])
