import json

import pytest

from condense.runs import MetricsLog


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_seconds(path):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(path)]


def write(path, start, stop):
    with MetricsLog(path, start) as log:
        for i in range(start, stop):
            log.log(i, {"loss": 1 / (i + 1), "lr": 0.01})


def test_a_line_for_every_iteration(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 3)
    assert without_seconds(path) == [{"iteration": i, "loss": 1 / (i + 1), "lr": 0.01} for i in range(3)]
    assert all(line["seconds"] >= 0 for line in lines(path))


def test_a_line_can_be_read_as_soon_as_it_is_logged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.log(0, {"loss": 1.0})
        assert lines(path)[0]["loss"] == 1.0
        log.sync()


def test_values_that_are_not_finite_are_valid_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.log(0, {"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 1})
    assert without_seconds(path) == [{"iteration": 0, "a": None, "b": None, "c": None, "d": 1}]
    assert "NaN" not in path.read_text()


@pytest.mark.parametrize("tail", [b"", b'{"iteration": 10, "lo', b'{"iteration": 10}', b"\0\0\0", b"3\n", b"{}\n"])
@pytest.mark.parametrize("start", [0, 1, 7, 10])
def test_a_resumed_log_equals_an_uninterrupted_one(tmp_path, start, tail):
    resumed, whole = tmp_path / "resumed.jsonl", tmp_path / "whole.jsonl"
    write(whole, 0, 12)
    write(resumed, 0, 10)
    with resumed.open("ab") as file:
        file.write(tail)
    write(resumed, start, 12)
    assert without_seconds(resumed) == without_seconds(whole)


def test_the_lines_that_stay_are_not_touched(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 10)
    before = path.read_bytes().splitlines()
    write(path, 6, 6)
    assert path.read_bytes().splitlines() == before[:6]


def test_the_logs_own_keys_cannot_be_metrics(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log, pytest.raises(AssertionError):
        log.log(0, {"seconds": 1.0})
