"""The tables of a bench, in words and as files for other programs.

What is measured on test images is in accuracy.csv, accuracy.md, values.csv and storage.csv, which are the same bytes
whenever the same grid is run on the same machine; what is measured by the clock is in costs.csv and costs.md.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO

from condense.bench.results import Interval, Results, Sample
from condense.bench.tables import PARTS, AccuracyTable, CostRow, StorageRow, Tables, dataset_title
from condense.costs import size
from condense.evaluation import percent

ACCURACY = "dataset ipc network method sets networks_per_set varied percent ci95_percent rank minus_random_percent"
ACCURACY += " minus_random_ci95_percent"
VALUES = "dataset ipc method seed network number accuracy"
STORAGE = "dataset ipc method image_bytes label_bytes preprocessing_bytes lr_bytes bytes percent ci95_percent"
COSTS = f"dataset ipc method sets {' '.join(f'{part}_seconds' for part in PARTS)} seconds ci95_seconds peak_bytes"

RANK = (
    "Rank is 1 + the number of methods that are better: their paired difference by seed has a 95 % interval above 0, "
    "not corrected for the number of comparisons. None is claimed from one seed."
)


def table_files(results: Results, tables: Tables) -> dict[str, str]:
    """The content of each file, by its name."""
    return {
        "accuracy.csv": _csv(ACCURACY, _accuracy_lines(results, tables.accuracy)),
        "accuracy.md": _accuracy_markdown(results, tables.accuracy),
        "values.csv": _csv(VALUES, _value_lines(results)),
        "storage.csv": _csv(STORAGE, map(_storage_line, tables.storage)),
        "costs.csv": _csv(COSTS, map(_cost_line, tables.costs)),
        "costs.md": _costs_markdown(tables.costs),
    }


def count_words(sample: Sample) -> str:
    """n as sets x networks, and over which of them the interval is."""
    return f"{sample.sets} × {sample.networks}, over {sample.varied}"


def interval_words(interval: Interval | None, sign: str = "") -> str:
    """Percent with its half width; nothing for nothing."""
    return "" if interval is None else percent(*interval, sign)


def seconds(count: float | None) -> str:
    """Seconds for people: 0.3, 12.5, 380."""
    if count is None:
        return "not known"
    return f"{count:.1f}" if count < 100 else f"{count:.0f}"


def seconds_interval(interval: Interval | None) -> str:
    if interval is None:
        return "not known"
    mean, half = interval
    return seconds(mean) + ("" if half is None else f" ± {seconds(half)}")


def _csv(header: str, lines: Iterable[Sequence[object]]) -> str:
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header.split())
    writer.writerows(lines)
    return file.getvalue()


def _percents(interval: Interval | None) -> tuple[str, ...]:
    """Mean and half width in percent, empty where there is none."""
    return tuple("" if value is None else f"{100 * value:.3f}" for value in interval or (None, None))


def _accuracy_lines(results: Results, tables: Sequence[AccuracyTable]) -> Iterator[Sequence[object]]:
    for table in tables:
        for index, network in enumerate(results.grid.networks):
            for row in table.rows:
                one = row.standings[index]
                counts = (one.sample.sets, one.sample.networks, one.sample.varied)
                measured = (*_percents(one.sample.interval), one.rank, *_percents(one.minus_random))
                yield (table.dataset, table.ipc, network, row.label, *counts, *measured)


def _value_lines(results: Results) -> Iterator[Sequence[object]]:
    for dataset, ipc in results.groups():
        for index, network in enumerate(results.grid.networks):
            for label, sample in results.samples(dataset, ipc, index).items():
                for seed, values in sample.values.items():
                    for number, value in enumerate(values):
                        yield dataset_title(dataset), ipc, label, seed, network, number, value


def _storage_line(row: StorageRow) -> Sequence[object]:
    counts = (row.images, row.labels, row.preprocessing, row.lr, row.total)
    return row.dataset, row.ipc, row.label, *counts, *_percents(row.accuracy)


def _cost_line(row: CostRow) -> Sequence[object]:
    parts = (row.parts.get(part) for part in PARTS)
    times = ("" if count is None else f"{count:.3f}" for count in (*parts, *(row.total or (None, None))))
    return row.dataset, row.ipc, row.label, row.sets, *times, row.peak_bytes


def _accuracy_markdown(results: Results, tables: Sequence[AccuracyTable]) -> str:
    networks = results.grid.networks
    others = ["other architectures"] if results.transfer else []
    main, protocol = _plain(networks[0]), _plain(results.grid.protocol)
    head = ["method", *networks, *others, "minus random", "rank", "n"]
    blocks = [
        "# Test accuracy in percent\n\n"
        f"Mean ± half width of the 95 % interval, protocol {protocol}. n is sets × networks per set. "
        f"Difference and rank are on {main}. {RANK}\n"
    ]
    for table in tables:
        lines = [
            [
                row.label,
                *(interval_words(one.sample.interval) for one in row.standings),
                *(interval_words(row.transfer) for _ in others),
                interval_words(row.main.minus_random, "+"),
                "" if row.main.rank is None else str(row.main.rank),
                count_words(row.main.sample),
            ]
            for row in table.rows
        ]
        blocks.append(f"## {_plain(table.dataset)}, {table.ipc} per class\n\n{_markdown(head, lines)}")
    if results.errors:
        blocks.append("## Failed cells\n")
        blocks += [f"{_plain(name)}\n\n{_indented(words)}" for name, words in results.errors.items()]
    if results.missing:
        blocks.append(f"## Not finished\n\n{_plain(', '.join(results.missing))}\n")
    return "\n".join(blocks)


def _costs_markdown(rows: Sequence[CostRow]) -> str:
    head = ["data set", "ipc", "method", *(f"{part}, s" for part in PARTS), "together, s", "peak memory", "sets"]
    lines = [
        [
            row.dataset,
            str(row.ipc),
            row.label,
            *(seconds(row.parts[part]) if part in row.parts else "" for part in PARTS),
            seconds_interval(row.total),
            "not known" if row.peak_bytes is None else size(row.peak_bytes),
            str(row.sets),
        ]
        for row in rows
    ]
    return f"# What making the sets took\n\nMeans over the sets, without evaluations.\n\n{_markdown(head, lines)}"


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [[_plain(word) for word in row] for row in (head, *lines)]
    rows.insert(1, ["---"] * len(head))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _plain(text: str) -> str:
    """Text that Markdown takes as it is."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#&" else character for character in text)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
