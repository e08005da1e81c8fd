"""The report of a bench: its tables as files, and one HTML page that needs nothing but itself."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from condense.artifact import load_artifact, read_manifest
from condense.bench import files, pictures, plots
from condense.bench.grid import Cell
from condense.bench.results import Interval, Results
from condense.bench.tables import (
    PARTS,
    AccuracyTable,
    BudgetTable,
    StorageRow,
    Tables,
    dataset_title,
    make_tables,
)
from condense.comparison import FULL_DATA
from condense.costs import size
from condense.evaluation import load_protocols
from condense.files import make_folder, write_atomic
from condense.methods import METHODS

PAGE = "index.html"
TEMPLATE = "page.html.jinja"
FIGURE_SPACE = "\u2007"
"""As wide as a digit."""


def write_report(bench: Path, out: Path | None = None) -> Path:
    """Write tables and page of the bench in folder `bench` to `out` (none: report in it), and return the page's path.

    The bench may be at work: what is finished is reported, the rest is named. Two reports of the same bench are the
    same bytes. Raises RunError if there is no bench, ArtifactError for a damaged set.
    """
    results = Results(bench)
    tables = make_tables(results)
    content = files.table_files(results, tables) | {PAGE: render(results, tables)}
    folder = results.folder.report if out is None else out
    make_folder(folder)
    for name, text in content.items():
        write_atomic(folder / name, text.encode())
    return folder / PAGE


def render(results: Results, tables: Tables) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "width": _width,
        "aligned": lambda number, width: number.rjust(width, FIGURE_SPACE),
        "breakable": lambda spec: escape(spec).replace(":", Markup(":<wbr>")).replace(",", Markup(",<wbr>")),
        "interval": files.interval_words,
        "n": files.count_words,
        "size": size,
        "seconds": files.seconds,
        "seconds_interval": files.seconds_interval,
    }
    grid = results.grid
    baselines = [label for label in grid.labels if label not in grid.methods]
    looks = plots.looks(grid.methods, baselines)
    return environment.get_template(TEMPLATE).render(
        results=results,
        grid=grid,
        tables=tables,
        baselines=baselines,
        full_data=FULL_DATA,
        datasets=[dataset_title(name) for name in grid.datasets],
        protocol=load_protocols().get(grid.protocol),
        summaries={label: METHODS[grid.base(label)].summary for label in grid.labels},
        transfer=[grid.networks[index] for index in results.transfer],
        rank_rule=files.RANK,
        heat=[Heat.of(table) for table in tables.accuracy],
        legend={label: Markup(plots.swatch(look)) for label, look in (looks | {FULL_DATA: plots.REFERENCE}).items()},
        curves=list(_curves(tables, looks)),
        storage=list(_alike(tables.storage)),
        parts=PARTS,
        pictures=list(_pictures(results)),
        losses=list(_losses(results, looks)),
        configs=[_config(results, cells) for cells in _sets(results)],
        versions=_versions(results),
    )


@dataclass(frozen=True)
class Heat:
    """The shades of a table: for each row and network where the mean lies between the lowest and the highest, in %."""

    low: float
    high: float
    shades: list[list[int]]

    @classmethod
    def of(cls, table: AccuracyTable) -> "Heat":
        means = [[one.sample.interval[0] for one in row.standings] for row in table.rows]
        low, high = min(map(min, means)), max(map(max, means))
        shades = [[round(100 * (mean - low) / (high - low)) if high > low else 0 for mean in row] for row in means]
        return cls(100 * low, 100 * high, shades)


def _width(table: AccuracyTable | BudgetTable) -> int:
    """Characters of the longest half width in a table."""
    return max((len(f"{100 * half:.1f}") for _, half in table.intervals() if half is not None), default=0)


def _alike(rows: list[StorageRow]) -> Iterator[tuple[StorageRow, list[str]]]:
    """Sets of the same bytes in one row, with the labels of all."""
    found: dict[tuple[object, ...], tuple[StorageRow, list[str]]] = {}
    for row in rows:
        key = (row.dataset, row.ipc, row.images, row.labels, row.preprocessing, row.lr)
        found.setdefault(key, (row, []))[1].append(row.label)
    yield from found.values()


def _curves(tables: Tables, looks: dict[str, plots.Look]) -> Iterator[dict[str, Any]]:
    """For each data set its three plots."""
    for number, dataset in enumerate(dict.fromkeys(table.dataset for table in tables.accuracy)):
        by_ipc: dict[str, list[plots.Point]] = {}
        full: Interval | None = None
        for table in tables.accuracy:
            if table.dataset == dataset:
                for row in table.rows:
                    if row.label == FULL_DATA:
                        full = row.main.sample.interval
                    else:
                        point = plots.Point(table.ipc, row.main.sample.interval)
                        by_ipc.setdefault(row.label, []).append(point)
        accuracy = {(row.dataset, row.ipc, row.label): row.accuracy for row in tables.storage}
        by_bytes: dict[str, list[plots.Point]] = {}
        for held in tables.storage:
            if held.dataset == dataset:
                by_bytes.setdefault(held.label, []).append(plots.Point(held.total, held.accuracy))
        by_time: dict[str, list[plots.Point]] = {}
        for cost in tables.costs:
            if cost.dataset == dataset and cost.total is not None and cost.total[0] > 0:
                point = plots.Point(cost.total[0], accuracy[dataset, cost.ipc, cost.label])
                by_time.setdefault(cost.label, []).append(point)
        kinds = (
            ("ipc", by_ipc, "images per class", "values", "images per class"),
            ("bytes", by_bytes, "stored bytes", "bytes", "the bytes that a user stores"),
            ("time", by_time, "seconds to make the set", "powers", "the seconds that making took"),
        )
        yield {
            "dataset": dataset,
            "labels": [*by_ipc, *([FULL_DATA] if full is not None else [])],
            "plots": [
                {
                    "against": against,
                    "svg": Markup(
                        plots.accuracy_plot(
                            points,
                            looks,
                            name=f"{kind}-{number}",
                            title=f"Accuracy against {against}, {dataset}. The numbers are in the tables.",
                            axis=axis,
                            ticks=ticks,
                            reference=full,
                        )
                    ),
                }
                for kind, points, axis, ticks, against in kinds
                if points
            ],
        }


def _sets(results: Results) -> Iterator[list[Cell]]:
    """The finished cells that differ in the seed alone."""
    for dataset, ipc in results.groups():
        for label in results.grid.labels:
            if cells := results.finished(dataset, ipc, label):
                yield cells


def _pictures(results: Results) -> Iterator[dict[str, Any]]:
    """For each data set and ipc the sets of the first seed."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for cell, *_ in _sets(results):
        artifact = load_artifact(results.folder.run(cell.name) / "distilled")
        uri, width, height = pictures.picture(artifact)
        held = {"label": cell.label, "seed": cell.seed, "uri": uri, "width": width, "height": height}
        shown = f"columns: {', '.join(artifact.classes[: pictures.CLASSES])}"
        found.setdefault((cell.dataset, cell.ipc), []).append(held | {"classes": shown})
    for (dataset, ipc), sheets in found.items():
        yield {"dataset": dataset_title(dataset), "ipc": ipc, "sheets": sheets}


def _losses(results: Results, looks: dict[str, plots.Look]) -> Iterator[dict[str, Any]]:
    """For each data set and ipc the loss curves of those methods that have a loss."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number, cells in enumerate(_sets(results)):
        first = cells[0]
        curves = {cell.seed: _loss(results.folder.run(cell.name) / "metrics.jsonl") for cell in cells}
        curves = {seed: losses for seed, losses in curves.items() if losses}
        if curves:
            ends = "; ".join(f"seed {s} from {losses[0]:.3g} to {losses[-1]:.3g}" for s, losses in curves.items())
            title = f"Loss of {first.label} by iteration: {ends}"
            svg = plots.loss_plot(curves, looks[first.label], name=f"loss-{number}", title=title)
            held = {"label": first.label, "svg": Markup(svg)}
            found.setdefault((first.dataset, first.ipc), []).append(held)
    for (dataset, ipc), panels in found.items():
        yield {"dataset": dataset_title(dataset), "ipc": ipc, "panels": panels}


def _loss(log: Path) -> list[float]:
    """The losses in a metrics.jsonl; a value that was not finite is left out."""
    lines = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()) if log.exists() else ()
    return [line["loss"] for line in lines if line.get("loss") is not None]


def _config(results: Results, cells: list[Cell]) -> dict[str, Any]:
    """The configuration of the first of these cells; the others differ in the seed alone."""
    text = (results.folder.run(cells[0].name) / "config.toml").read_text(encoding="utf-8")
    return {"cell": cells[0], "dataset": dataset_title(cells[0].dataset), "text": text}


def _versions(results: Results) -> list[dict[str, str]]:
    """The versions that made the sets, each combination once."""
    paths = (results.folder.run(cell.name) / "distilled" for cell in results.cells if cell.name in results.done)
    return [dict(pairs) for pairs in dict.fromkeys(tuple(read_manifest(path).versions.items()) for path in paths)]
