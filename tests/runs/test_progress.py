import io
import sys
import time

import pytest

from condense.runs import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_every_ten_seconds_and_at_the_end(clock, capsys):
    with progress(100, 40, "distilling") as display:
        for i in range(40, 100):
            clock[0] += 0.5
            display.update(i, {"loss": 2.0})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "distilling 60/100  loss 2  2 it/s  0:00:20 left",
        "distilling 80/100  loss 2  2 it/s  0:00:10 left",
        "distilling 100/100  loss 2  2 it/s  0:00:00 left",
    ]


def test_the_last_line_is_printed_though_the_run_fails(clock, capsys):
    with pytest.raises(RuntimeError), progress(20_000) as display:
        clock[0] += 2
        display.update(0, {})
        raise RuntimeError
    assert capsys.readouterr().err == "1/20000  0.5 it/s  11:06:38 left\n"


def test_no_iteration_no_line(capsys):
    with progress(5, 5):
        pass
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(20, 18, "distilling") as display:
        for i in (18, 19):
            display.update(i, {"loss": 0.25})
    text = terminal.getvalue()
    assert "\x1b[" in text
    for part in ("distilling", "20/20", "loss 0.25", "it/s", "0:00:00"):
        assert part in text
    assert capsys.readouterr().out == ""
