"""The tables as numbers."""

import json
from dataclasses import replace

import pytest
from fabricated_bench import SIZE, fabricate

from condense.bench.results import Results
from condense.bench.tables import StorageRow, accuracy_tables, budget_tables, cost_rows, make_tables, storage_rows
from condense.evaluation import summary


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(fabricate(tmp_path_factory.mktemp("tables") / "bench"))


def test_a_table_for_each_data_set_and_ipc(results):
    tables = accuracy_tables(results)
    assert [(table.dataset, table.ipc) for table in tables] == [("digits", 1), ("digits", 10)]
    assert [row.label for row in tables[0].rows] == ["dm", "mtt", "dm-flip", "random", "kmeans", "full data"]
    assert all(len(row.standings) == 3 for row in tables[0].rows)


def test_rank_difference_and_transfer(results):
    for row in accuracy_tables(results)[0].rows:
        assert (row.main.rank is None) == (row.label == "full data")
        assert (row.main.minus_random is None) == (row.label == "random")
        samples = [one.sample.values for one in row.standings]
        by_seed = [sum(sum(samples[k][seed]) / 2 for k in (1, 2)) / 2 for seed in (0, 1, 2)]
        assert row.transfer == pytest.approx(summary(by_seed))
    ranks = {row.label: row.main.rank for row in accuracy_tables(results)[0].rows}
    assert ranks["kmeans"] == 1 < ranks["dm"]  # made up 12 points apart, with noise of 1


def test_one_seed_gives_intervals_over_networks_and_no_rank(tmp_path):
    table = accuracy_tables(Results(fabricate(tmp_path / "bench", seeds=[3], ipc=[1])))[0]
    assert {row.main.sample.varied for row in table.rows} == {"networks"}
    assert {row.main.rank for row in table.rows} == {None}
    assert all(row.main.minus_random is not None for row in table.rows if row.label != "random")


def test_costs_are_means_of_parts_and_their_sum(results):
    rows = {(row.ipc, row.label): row for row in cost_rows(results)}
    row = rows[10, "mtt"]
    made = [
        json.loads((results.folder.run(f"digits-mtt-ipc10-seed{seed}") / "result.json").read_text())["making"]
        for seed in (0, 1, 2)
    ]
    assert row.parts == pytest.approx(
        {part: sum(making[part]["seconds"] for making in made) / 3 for part in ("experts", "distillation")}
    )
    assert row.total == pytest.approx(summary([sum(part["seconds"] for part in making.values()) for making in made]))
    assert (row.sets, row.peak_bytes) == (3, 500_000_000)
    assert list(rows[1, "dm"].parts) == ["distillation"]


@pytest.mark.parametrize("making", [{}, {"experts": None, "distillation": {"seconds": 1.0, "peak_bytes": 5}}])
def test_a_cost_that_is_not_known_is_not_guessed(tmp_path, making):
    """As of experts that an earlier version trained."""
    bench = fabricate(tmp_path / "bench", ipc=[1])
    path = bench / "cells" / "digits-mtt-ipc1-seed1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"making": making}))
    row = next(row for row in cost_rows(Results(bench)) if row.label == "mtt")
    assert (row.total, row.peak_bytes, row.parts["experts"]) == (None, None, None)
    make_tables(Results(bench))


def test_bytes_are_those_of_the_tensors(results):
    rows = {(row.ipc, row.label): row for row in storage_rows(results)}
    images = 3 * SIZE * SIZE * 4
    hard, soft = rows[1, "dm"], rows[10, "kmeans"]
    assert (hard.images, hard.labels, hard.preprocessing, hard.total) == (images, 3 * 8, 8, images + 32)
    assert (soft.images, soft.labels) == (10 * images, 10 * 3 * 3 * 4)


def test_a_budget_buys_the_largest_set_that_fits(results):
    (table,) = budget_tables(storage_rows(results))
    sets = dict(table.rows)
    small_hard, small_soft, large_hard, large_soft = table.budgets
    assert small_hard < small_soft < large_hard < large_soft == sets["kmeans"][3].total
    assert [row and row.ipc for row in sets["kmeans"]] == [None, 1, 1, 10]
    assert [row.ipc for row in sets["mtt"]] == [1, 1, 10, 10]


def test_sizes_that_read_the_same_are_one_budget():
    """Such as those of methods that learn a learning rate, which is four bytes, and of methods that do not."""
    row = StorageRow("digits", 1, "dm", images=2560, labels=80, preprocessing=8, lr=0, accuracy=(0.5, 0.1))
    rows = [row, replace(row, label="mtt", lr=4), replace(row, label="soft", labels=400)]
    (table,) = budget_tables(rows)
    assert table.budgets == (2652, 2968)
    assert dict(table.rows) == {"dm": (rows[0], rows[0]), "mtt": (rows[1], rows[1]), "soft": (None, rows[2])}
