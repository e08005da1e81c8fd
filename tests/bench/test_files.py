"""The tables as files."""

import csv
from io import StringIO

import pytest
from fabricated_bench import fabricate

from condense.bench.files import seconds, seconds_interval, table_files
from condense.bench.results import Results
from condense.bench.tables import make_tables
from condense.costs import size
from condense.evaluation import percent

UNTIMED = ("accuracy.csv", "accuracy.md", "values.csv", "storage.csv")


def files(path):
    results = Results(path)
    return table_files(results, make_tables(results))


def rows(text):
    return list(csv.DictReader(StringIO(text)))


def test_the_files_say_what_the_tables_say(tmp_path):
    path = fabricate(tmp_path / "bench")
    found, results = files(path), Results(path)
    lines = rows(found["accuracy.csv"])
    assert len(lines) == 2 * 3 * 6
    for line in lines:
        sample = results.samples("digits", int(line["ipc"]), results.grid.networks.index(line["network"]))[
            line["method"]
        ]
        mean, half = sample.interval
        assert float(line["percent"]) == pytest.approx(100 * mean, abs=1e-3)
        assert float(line["ci95_percent"]) == pytest.approx(100 * half, abs=1e-3)
        assert (line["sets"], line["networks_per_set"], line["varied"]) == ("3", "2", "sets")
        row = next(row for row in found["accuracy.md"].splitlines() if percent(mean, half) in row)
        assert row.startswith(f"| {line['method']} |") and "3 × 2, over sets" in row
    values = rows(found["values.csv"])
    assert len(values) == 2 * 3 * 3 * 6 * 2
    assert float(values[0]["accuracy"]) == results.samples("digits", 1, 0)["dm"].values[0][0]
    assert [row["method"] for row in rows(found["costs.csv"])] == ["dm", "mtt", "dm-flip", "random", "kmeans"] * 2


def test_time_is_in_no_file_of_accuracies(tmp_path):
    """Two benches with the same accuracies and other costs."""
    first, second = fabricate(tmp_path / "a"), fabricate(tmp_path / "b")
    for result in (second / "cells").glob("*/result.json"):
        result.write_text(result.read_text().replace('"seconds": ', '"seconds": 1'))
    before, after = files(first), files(second)
    assert all(before[name] == after[name] for name in UNTIMED)
    assert before["costs.csv"] != after["costs.csv"] and before["costs.md"] != after["costs.md"]


def test_failed_cells_are_in_the_table_with_their_last_words(tmp_path):
    path = fabricate(tmp_path / "bench", failed=["digits-mtt-ipc1-seed1"], missing=["digits-dm-ipc1-seed0"])
    text = files(path)["accuracy.md"]
    assert text.endswith(
        "## Failed cells\n\ndigits-mtt-ipc1-seed1\n\n    exit code 1\n    error: nothing worked\n\n"
        "## Not finished\n\ndigits-dm-ipc1-seed0\n"
    )
    assert "| mtt | " in text and "2 × 2, over sets" in text


def test_a_bench_that_has_only_begun_has_empty_tables(tmp_path):
    path = fabricate(tmp_path / "bench", missing=[], seeds=[0], ipc=[1])
    names = [entry.name for entry in (path / "cells").iterdir()]
    found = files(fabricate(tmp_path / "new", missing=names, seeds=[0], ipc=[1]))
    assert all(len(text.splitlines()) == 1 for name, text in found.items() if name.endswith(".csv"))
    assert "Not finished" in found["accuracy.md"]


def test_markdown_takes_any_name_as_it_is(tmp_path):
    path = fabricate(tmp_path / "bench", datasets=["npz:a/x|y*<b>.npz"], seeds=[0], ipc=[1])
    text = files(path)["accuracy.md"]
    assert r"## npz:x\|y\*\<b\>.npz, 1 per class" in text


def test_numbers_for_people():
    assert [size(count) for count in (0, 640, 2648, 999_600, 75_500_000, 2e10)] == [
        "0 B",
        "640 B",
        "2.65 kB",
        "1 MB",
        "75.5 MB",
        "20 GB",
    ]
    assert [seconds(count) for count in (0.04, 12.34, 380.2, None)] == ["0.0", "12.3", "380", "not known"]
    assert [seconds_interval(one) for one in ((1.23, 0.5), (1.23, None), None)] == ["1.2 ± 0.5", "1.2", "not known"]
