"""What the cells of a bench found: read from their folders, nothing is trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel

from condense.artifact import EvaluationRecord
from condense.artifact.format import CostRecord
from condense.bench.folder import BenchFolder, Record
from condense.bench.grid import RANDOM, Cell, Grid, read_grid
from condense.comparison import FULL_DATA
from condense.errors import RunError
from condense.evaluation import paired_difference, summary
from condense.runs import read_config

Interval = tuple[float, float | None]
"""A mean, and the half width of its 95 % interval; None where there is none."""


class CellResult(BaseModel):
    """What a report needs of a run's result.json; keys that this version does not know are left alone."""

    evaluations: tuple[EvaluationRecord, ...]
    baselines: dict[str, tuple[EvaluationRecord, ...]]
    making: dict[str, CostRecord | None] = {}


@dataclass(frozen=True)
class Sample:
    """Accuracies on one network: for each seed, and so for each set, those of its fresh networks.

    What is varied is the set, as one seed draws, trains and evaluates anew: a point is the mean over the networks of a
    seed. With one seed it is the network, and a point is one network.
    """

    values: Mapping[int, tuple[float, ...]]

    @property
    def sets(self) -> int:
        return len(self.values)

    @property
    def networks(self) -> int:
        """Fresh networks for each set."""
        return max(map(len, self.values.values()))

    @property
    def varied(self) -> str:
        return "sets" if self.sets > 1 else "networks"

    @cached_property
    def points(self) -> dict[int, float]:
        if self.sets > 1:
            return {seed: fmean(values) for seed, values in self.values.items()}
        (values,) = self.values.values()
        return dict(enumerate(values))

    @cached_property
    def interval(self) -> Interval:
        return summary(list(self.points.values()))

    def minus(self, other: "Sample") -> Interval | None:
        """The paired difference: by seed where both have several, else by network; None where there are no pairs."""
        common = [key for key in self.points if key in other.points]
        if not common or self.varied != other.varied:
            return None
        return paired_difference([self.points[key] for key in common], [other.points[key] for key in common])

    def better_than(self, other: "Sample") -> bool:
        """Whether the 95 % interval of the difference, paired by seed, is above 0."""
        difference = self.minus(other) if self.sets > 1 and other.sets > 1 else None
        return difference is not None and difference[1] is not None and difference[0] > difference[1]


def mean_sample(samples: Sequence[Sample]) -> Sample:
    """The mean over several networks, number by number, for the seeds that all of them have."""
    seeds = [seed for seed in samples[0].values if all(seed in sample.values for sample in samples)]
    return Sample(
        {seed: tuple(map(fmean, zip(*(sample.values[seed] for sample in samples), strict=True))) for seed in seeds}
    )


def ranks(samples: Mapping[str, Sample]) -> dict[str, int | None]:
    """1 + the number of others that are better by `better_than`; None for what has one seed, so no claim."""
    return {
        name: None if sample.sets == 1 else 1 + sum(other.better_than(sample) for other in samples.values())
        for name, sample in samples.items()
    }


class Results:
    """A bench as far as it is finished."""

    def __init__(self, path: Path) -> None:
        """Raises RunError if there is no bench in the folder, or its files are damaged."""
        self.folder = BenchFolder(path)
        record = self.folder.read_record()
        if record is None or not self.folder.grid.exists():
            raise RunError(
                f"{path} is no bench: it holds no bench.json and grid.toml. Give the --out of `condense bench`."
            )
        self.record: Record = record
        self.grid: Grid = read_grid(self.folder.grid)
        self.cells: list[Cell] = self.grid.cells()
        self.done: dict[str, CellResult] = {}
        self.errors: dict[str, str] = {}
        for name in (cell.name for cell in self.cells):
            if self.folder.finished(name):
                self.done[name] = self._result(name)
            elif self.folder.error(name).exists():
                self.errors[name] = self.folder.error(name).read_text(encoding="utf-8", errors="replace")

    def _result(self, name: str) -> CellResult:
        path = self.folder.run(name) / "result.json"
        try:
            return CellResult.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}. Delete {path.parent} and run the bench again.") from None

    @property
    def missing(self) -> list[str]:
        """Cells that have not been run to their end, and have not failed."""
        return [cell.name for cell in self.cells if cell.name not in self.done and cell.name not in self.errors]

    def finished(self, dataset: str, ipc: int, label: str) -> list[Cell]:
        """The finished cells that differ in the seed alone, in the order of the seeds."""
        return [
            cell
            for cell in self.cells
            if (cell.dataset, cell.ipc, cell.label) == (dataset, ipc, label) and cell.name in self.done
        ]

    def groups(self) -> Iterator[tuple[str, int]]:
        """Data sets and ipc that have finished cells."""
        for dataset in self.grid.datasets:
            for ipc in self.grid.ipc:
                if any(self.finished(dataset, ipc, label) for label in self.grid.labels):
                    yield dataset, ipc

    def samples(self, dataset: str, ipc: int, network: int) -> dict[str, Sample]:
        """The accuracies of each label on the network of this number, and those of the full data last."""
        found = {}
        for label in self.grid.labels:
            if cells := self.finished(dataset, ipc, label):
                records = {cell.seed: self.done[cell.name].evaluations[network] for cell in cells}
                found[label] = Sample({seed: record.values for seed, record in records.items()})
        full = {
            cell.seed: self.done[cell.name].baselines[FULL_DATA][network].values
            for cell in self.finished(dataset, ipc, RANDOM)
            if FULL_DATA in self.done[cell.name].baselines
        }
        return found | ({FULL_DATA: Sample(full)} if full else {})

    def config(self, cell: Cell) -> dict[str, Any]:
        """The configuration of a finished cell."""
        return read_config(self.folder.run(cell.name))

    @cached_property
    def transfer(self) -> list[int]:
        """The numbers of the networks that are of another family than those that the sets were made with."""
        families = {_family(str(self.config(cell)["network"])) for cell in self.cells if cell.name in self.done}
        return [index for index, spec in enumerate(self.grid.networks) if _family(spec) not in families]


def _family(spec: str) -> str:
    return spec.strip().partition(":")[0]
