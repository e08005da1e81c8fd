"""The tables of a bench, as numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from condense.artifact import read_manifest, stored_bytes
from condense.bench.grid import RANDOM
from condense.bench.results import Interval, Results, Sample, mean_sample, ranks
from condense.comparison import FULL_DATA
from condense.costs import size
from condense.evaluation import summary

PARTS = ("experts", "teacher", "distillation")


@dataclass(frozen=True)
class Standing:
    """One label on one network, among the others there."""

    sample: Sample
    rank: int | None
    minus_random: Interval | None


@dataclass(frozen=True)
class AccuracyRow:
    """One label on each network, and on average over those of other families than its own."""

    label: str
    standings: tuple[Standing, ...]
    transfer: Interval | None

    @property
    def main(self) -> Standing:
        """On the grid's first network."""
        return self.standings[0]


@dataclass(frozen=True)
class AccuracyTable:
    """A data set and ipc, a row for each label with finished cells."""

    dataset: str
    ipc: int
    rows: tuple[AccuracyRow, ...]

    def intervals(self) -> Iterator[Interval]:
        """All that are in the table."""
        for row in self.rows:
            yield from (one.sample.interval for one in row.standings)
            yield from (one for one in (row.transfer, row.main.minus_random) if one is not None)


@dataclass(frozen=True)
class CostRow:
    """Making one set: mean seconds of each part over the seeds, their sum with its interval, most bytes of memory.

    None where it is not known.
    """

    dataset: str
    ipc: int
    label: str
    sets: int
    parts: dict[str, float | None]
    total: Interval | None
    peak_bytes: int | None


@dataclass(frozen=True)
class StorageRow:
    """Bytes of the tensors that a user of one set must keep, and its accuracy on the first network."""

    dataset: str
    ipc: int
    label: str
    images: int
    labels: int
    preprocessing: int
    lr: int
    accuracy: Interval

    @property
    def total(self) -> int:
        return self.images + self.labels + self.preprocessing + self.lr


@dataclass(frozen=True)
class BudgetTable:
    """For each number of bytes (column) and label (row) the largest of its sets that fits; None where none does.

    Sizes that read the same are one column, the largest of them.
    """

    dataset: str
    budgets: tuple[int, ...]
    rows: tuple[tuple[str, tuple[StorageRow | None, ...]], ...]

    def intervals(self) -> Iterator[Interval]:
        """All that are in the table."""
        return (row.accuracy for _, rows in self.rows for row in rows if row is not None)


@dataclass(frozen=True)
class Tables:
    accuracy: list[AccuracyTable]
    costs: list[CostRow]
    storage: list[StorageRow]
    budgets: list[BudgetTable]


def make_tables(results: Results) -> Tables:
    storage = storage_rows(results)
    return Tables(accuracy_tables(results), cost_rows(results), storage, budget_tables(storage))


def dataset_title(name: str) -> str:
    """A data set as people call it: of a path the last part."""
    kind, colon, path = name.partition(":")
    return f"{kind}:{Path(path).name}" if colon else kind


def accuracy_tables(results: Results) -> list[AccuracyTable]:
    tables = []
    for dataset, ipc in results.groups():
        columns = [standings(results.samples(dataset, ipc, index)) for index in range(len(results.grid.networks))]
        rows = []
        for label in columns[0]:
            row = tuple(column[label] for column in columns)
            others = [row[index].sample for index in results.transfer]
            rows.append(AccuracyRow(label, row, mean_sample(others).interval if others else None))
        tables.append(AccuracyTable(dataset_title(dataset), ipc, tuple(rows)))
    return tables


def standings(samples: Mapping[str, Sample]) -> dict[str, Standing]:
    """Each label among the others. The full data have no rank: they are what is distilled."""
    places = ranks({label: sample for label, sample in samples.items() if label != FULL_DATA})
    random = samples.get(RANDOM)
    return {
        label: Standing(
            sample,
            places.get(label),
            minus_random=sample.minus(random) if random is not None and label != RANDOM else None,
        )
        for label, sample in samples.items()
    }


def cost_rows(results: Results) -> list[CostRow]:
    rows = []
    for dataset, ipc in results.groups():
        for label in results.grid.labels:
            makings = [results.done[cell.name].making for cell in results.finished(dataset, ipc, label)]
            if not makings:
                continue
            parts: dict[str, float | None] = {}
            for part in PARTS:
                if any(part in making for making in makings):
                    costs = [making.get(part) for making in makings]
                    known = [cost.seconds for cost in costs if cost is not None]
                    parts[part] = summary(known)[0] if len(known) == len(costs) else None
            complete = [
                [cost for cost in making.values() if cost is not None]
                for making in makings
                if making and None not in making.values()
            ]
            whole = len(complete) == len(makings)
            totals = [sum(cost.seconds for cost in costs) for costs in complete]
            peaks = [cost.peak_bytes for costs in complete for cost in costs]
            rows.append(
                CostRow(
                    dataset_title(dataset),
                    ipc,
                    label,
                    len(makings),
                    parts,
                    total=summary(totals) if whole else None,
                    peak_bytes=max(peaks) if whole else None,
                )
            )
    return rows


def storage_rows(results: Results) -> list[StorageRow]:
    """From the first finished set of each kind; the others have the same shapes."""
    rows = []
    for dataset, ipc in results.groups():
        samples = results.samples(dataset, ipc, 0)
        for label in results.grid.labels:
            for cell in results.finished(dataset, ipc, label)[:1]:
                sizes = stored_bytes(read_manifest(results.folder.run(cell.name) / "distilled"))
                rows.append(StorageRow(dataset_title(dataset), ipc, label, **sizes, accuracy=samples[label].interval))
    return rows


def budget_tables(rows: Sequence[StorageRow]) -> list[BudgetTable]:
    tables = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        here = [row for row in rows if row.dataset == dataset]
        budgets = list({size(row.total): row.total for row in sorted(here, key=lambda row: row.total)}.values())

        def largest(label: str, budget: int, here: list[StorageRow] = here) -> StorageRow | None:
            fitting = [row for row in here if row.label == label and row.total <= budget]
            return max(fitting, key=lambda row: (row.total, row.ipc), default=None)

        labels = dict.fromkeys(row.label for row in here)
        lines = tuple((label, tuple(largest(label, budget) for budget in budgets)) for label in labels)
        tables.append(BudgetTable(dataset, tuple(budgets), lines))
    return tables
