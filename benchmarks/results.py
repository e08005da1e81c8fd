"""The tables of docs/results.md, from finished runs.

    python benchmarks/results.py RUN [RUN ...]

Prints a Markdown row for each data set, ipc and network that the runs have in common, with a column for each method and
baseline. Nothing is trained: a finished run and its baselines are read again from its folder and the cache.
"""

import sys
from collections import defaultdict

from condense.api import resume
from condense.artifact import read_manifest
from condense.evaluation import Evaluation, paired_difference

FIRST, LAST = ("random", "kmeans"), ("full data",)


def cell(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    interval = "" if evaluation.ci95 is None else f" ± {100 * evaluation.ci95:.1f}"
    return f"{100 * evaluation.mean:.1f}{interval}"


def main(runs: list[str]) -> None:
    table: dict[tuple[str, int, str, str], dict[str, list[Evaluation]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        result = resume(run)
        manifest = read_manifest(result.artifact)
        columns = {manifest.method.name: result.evaluations} | result.baselines
        for name, evaluations in columns.items():
            for e in evaluations:
                row = table[manifest.dataset.name, manifest.method.ipc, e.network.partition(":")[0], e.protocol]
                if e not in row[name]:
                    row[name].append(e)
    names = {name for row in table.values() for name in row}
    methods = [*FIRST, *sorted(names - {*FIRST, *LAST}), *LAST]
    print("| data | ipc | network | protocol | " + " | ".join(methods) + " |")
    print("|---|---|---|---|" + "---|" * len(methods))
    for key, row in sorted(table.items()):
        seeds = sorted({e.seed for evaluations in row.values() for e in evaluations})
        for seed in seeds:
            cells = [cell(next((e for e in row[name] if e.seed == seed), None)) for name in methods]
            print(f"| {' | '.join(map(str, key))} | " + " | ".join(cells) + " |")
    print()
    for (data, ipc, network, _), row in sorted(table.items()):
        for name in sorted(row.keys() - {*FIRST, *LAST}):
            for ours in row[name]:
                random = next(e for e in row["random"] if e.seed == ours.seed)
                mean, ci95 = paired_difference(ours.values, random.values)
                gain = f"{100 * mean:+.1f}" + ("" if ci95 is None else f" ± {100 * ci95:.1f}")
                print(f"{data} ipc {ipc} {network} seed {ours.seed}: {name} minus random {gain}")


if __name__ == "__main__":
    main(sys.argv[1:])
