"""The grid of a bench: which cells there are, and the configuration of each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from condense.config import MOST_PROBLEMS, Layer, Resolved, RunConfig, check_baseline, resolve
from condense.data import RealData, load_dataset
from condense.errors import CondenseError, ConfigError, DataError, unknown
from condense.methods import METHODS, get_method
from condense.provide import check_run
from condense.runs import create_trackers, run_name
from condense.text import MOST_TOML, parse_toml, read_text

RANDOM = "random"
"""The baseline whose cells also hold the full data."""
BASELINES = tuple(name for name in (RANDOM, "herding", "kmeans", "kcenter", "random_soft") if name in METHODS)
MOST_CELLS = 10_000
LISTS = {
    "method": "methods",
    "ipc": "ipc",
    "dataset": "datasets",
    "seed": "seeds",
    "eval_networks": "networks",
    "protocol": "protocol",
    "baselines": "baselines",
    "full_data": "baselines",
}
"""Keys of a run that the grid decides, each with the key of the grid that does."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Cell:
    """One run of the grid. `label` names the method, or a variant of it that has a table of its own."""

    dataset: str
    label: str
    ipc: int
    seed: int
    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        return run_name(self.dataset, self.label, self.ipc, self.seed)

    def resolve(self) -> Resolved:
        """The complete configuration. Raises ConfigError that lists every problem found."""
        return resolve(self.layers)


class Grid(BaseModel):
    """The content of GRID.toml. Baselines are cells like any other; `random` brings the full data with it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    methods: tuple[Label, ...] = Field(strict=False, min_length=1)
    ipc: tuple[Count, ...] = Field(strict=False, min_length=1)
    datasets: tuple[str, ...] = Field(strict=False, min_length=1)
    seeds: tuple[Seed, ...] = Field(strict=False, min_length=1)
    networks: tuple[str, ...] = Field(strict=False, min_length=1)
    protocol: str
    baselines: tuple[Label, ...] = Field(BASELINES, strict=False)
    threads: Count | None = None
    set: dict[str, Any] = {}
    method: dict[str, dict[str, Any]] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Methods and variants, then the baselines that are not among them."""
        return tuple(dict.fromkeys((*self.methods, *self.baselines)))

    def base(self, label: str) -> str:
        """The method behind a label."""
        return str(self.method.get(label, {}).get("method", label))

    def cells(self) -> list[Cell]:
        """Every cell, the baselines first: they are done soon and say what the others are worth."""
        baselines_first = sorted(self.labels, key=lambda label: label not in self.baselines)
        return [
            Cell(dataset, label, ipc, seed, tuple(self._layers(dataset, label, ipc, seed)))
            for dataset, ipc, label, seed in product(self.datasets, self.ipc, baselines_first, self.seeds)
        ]

    def _layers(self, dataset: str, label: str, ipc: int, seed: int) -> Iterator[Layer]:
        yield Layer(
            "grid",
            {
                "method": self.base(label),
                "ipc": ipc,
                "dataset": dataset,
                "seed": seed,
                "eval_networks": list(self.networks),
                "protocol": self.protocol,
                "baselines": [],
                "full_data": label == RANDOM,
            },
        )
        yield Layer("[set]", self.set)
        table = {key: value for key, value in self.method.get(label, {}).items() if key != "method"}
        yield Layer(f"[method.{label}]", table)


def read_grid(path: Path) -> Grid:
    """The grid in a TOML file. Raises ConfigError, with every problem that can be seen without looking at a run."""
    try:
        written = parse_toml(read_text(path, MOST_TOML))
    except OSError as error:
        raise ConfigError(f"grid {path}: {error.strerror}. Give the path of a TOML file") from error
    except ValueError as error:
        raise ConfigError(f"grid {path}: not valid TOML ({error})") from error
    try:
        grid = Grid.model_validate(written)
    except ValidationError as error:
        problems = [_problem(found) for found in error.errors()[:MOST_PROBLEMS]]
    else:
        problems = list(_structure(grid))
    if problems:
        raise ConfigError("\n".join(f"grid {path}: {problem}" for problem in problems))
    return grid


def _problem(error: Any) -> str:
    """One problem that pydantic found."""
    place = ".".join(map(str, error["loc"]))
    match error["type"]:
        case "extra_forbidden":
            return unknown("key", place, Grid.model_fields)
        case "missing":
            return f"no {place}. A grid needs methods, ipc, datasets, seeds, networks and protocol"
    return f"{place} = {error['input']!r}: {error['msg']}"


def _structure(grid: Grid) -> Iterator[str]:
    """What is wrong with the grid itself."""
    for key in ("methods", "ipc", "datasets", "seeds", "networks", "baselines"):
        yield from (f"{key} has {value!r} more than once" for value in _twice(getattr(grid, key)))
    count = len(grid.labels) * len(grid.ipc) * len(grid.datasets) * len(grid.seeds)
    if count > MOST_CELLS:
        yield f"{count} cells; {MOST_CELLS} are the most. Make several benches of it"
        return
    for label, table in grid.method.items():
        if label not in grid.labels:
            yield f"[method.{label}] is used by no cell: {unknown('method', label, grid.labels)}"
        if label in METHODS and grid.base(label) != label:
            yield f"[method.{label}]: {label} is a method; give the variant of {grid.base(label)} another name"
        yield from _owned(f"[method.{label}]", {key for key in table if key != "method"})
    for label in grid.labels:
        try:
            get_method(grid.base(label))
            if label in grid.baselines:
                check_baseline(grid.base(label))
        except ConfigError as error:
            yield str(error)
    yield from _owned("[set]", grid.set)
    known = RunConfig.model_fields.keys() - LISTS.keys()
    for key in sorted(grid.set.keys() - LISTS.keys() - known):
        yield f"[set]: {unknown('key of every run', key, known)} Those of one method go to [method.NAME]"
    for name in _twice([cell.name for cell in grid.cells()]):
        yield f"two cells would be called {name}: rename one of the files or folders"


def _twice(values: Sequence[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _owned(table: str, keys: Any) -> Iterator[str]:
    for key in sorted(LISTS.keys() & set(keys)):
        yield f"{table}: {key} is decided by the grid's own {LISTS[key]}; take it out"


def check(cells: list[Cell]) -> dict[str, Resolved]:
    """The configuration of each cell by its name, once all that can be wrong with any of them has been looked at.

    Each data set is read once. Raises ConfigError for wrong keys and values, then ConfigError or DataError for what the
    data tell, each with all problems found.
    """
    found: dict[str, Resolved] = {}
    problems: list[CondenseError] = []
    for cell in cells:
        try:
            found[cell.name] = cell.resolve()
        except ConfigError as error:
            problems.append(error)
    _refuse(problems)

    data: dict[tuple[Any, ...], RealData | None] = {}
    without_seed = (replace(held, run=held.run.model_copy(update={"seed": 0})) for held in found.values())
    for resolved in {(held.run, held.method): held for held in without_seed}.values():
        r = resolved.run
        source = (r.dataset, r.data_root, r.download, r.validation)
        try:
            if source not in data:
                data[source] = None  # of data that cannot be read one error is enough
                data[source] = load_dataset(r.dataset, root=r.data_root, download=r.download, validation=r.validation)
            held = data[source]
            if held is not None:
                check_run(resolved, held)
            create_trackers(r.tracker, Path())  # a package may be missing
        except CondenseError as error:
            problems.append(error)
    _refuse(problems)
    return found


def _refuse(problems: list[CondenseError]) -> None:
    lines = dict.fromkeys(line for problem in problems for line in str(problem).splitlines())
    if lines:
        kind = DataError if any(isinstance(problem, DataError) for problem in problems) else ConfigError
        raise kind("\n".join(lines))


def given(cell: Cell, resolved: Resolved) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys that the grid gives to a cell, as they were understood (paths are absolute), and where each is from."""
    origins = {key: layer.origin for layer in cell.layers for key in layer.values}
    values = {key: value for key, value in resolved.values().items() if key in origins}
    return {key: "none" if value is None else value for key, value in values.items()}, origins
