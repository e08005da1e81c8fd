"""`condense bench` and `condense report` as commands."""

import signal
from pathlib import Path

import pytest
from fabricated_bench import fabricate, grid_text

import condense.bench
from condense.bench import read_grid
from condense.bench.grid import check
from condense.cli import main
from condense.runs import Stopped

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))


def call(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


@pytest.mark.parametrize("unfinished, code", [([], 0), (["digits-dm-ipc1-seed0"], 1)])
def test_a_bench_ends_with_its_page(unfinished, code, tmp_path, monkeypatch, capsys):
    bench = fabricate(tmp_path / "bench", seeds=[0], ipc=[1])
    seen = []
    monkeypatch.setattr(condense.bench, "run_bench", lambda *given: seen.append(given) or unfinished)
    assert call("bench", "grid.toml", "--out", bench, "--jobs", "3") == code
    ((grid, folder, executor),) = seen
    assert (grid, folder, executor.flags) == (Path("grid.toml"), bench, ["--jobs", "3"])
    out, err = capsys.readouterr()
    assert out == f"{bench}/report/index.html\n" and Path(out.strip()).exists()
    assert ("1 cells failed" in err) == bool(unfinished)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_stopped_bench_says_how_to_continue(number, code, monkeypatch, capsys, tmp_path):
    def stop(*_):
        raise Stopped(number)

    monkeypatch.setattr(condense.bench, "run_bench", stop)
    assert call("bench", "grid.toml", "--out", tmp_path) == code
    assert capsys.readouterr().err == f"stopped by {number.name}; the same command continues\n"


def test_mistakes_are_errors_and_leave_nothing(tmp_path, capsys):
    (tmp_path / "grid.toml").write_text(grid_text(networks=["convent"], protocol="quik"), encoding="utf-8")
    assert call("bench", tmp_path / "grid.toml", "--out", tmp_path / "bench") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: grid: unknown") for line in lines)
    assert call("report", tmp_path) == 2
    assert "is no bench" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["grid.toml"]


def test_a_report_can_go_elsewhere(tmp_path, capsys):
    bench = fabricate(tmp_path / "bench", seeds=[0], ipc=[1])
    assert call("report", bench, "--out", tmp_path / "page") == 0
    assert capsys.readouterr().out == f"{tmp_path}/page/index.html\n"
    assert not (bench / "report").exists()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_sound(example):
    """As far as that can be told without the data of those that read a folder."""
    cells = read_grid(example).cells()
    assert all(cell.resolve() for cell in cells)
    if not any(cell.dataset.startswith("folder:") for cell in cells):
        assert check(cells)
