"""A lock between processes: here between two open files, which the system tells apart as well."""

import signal

import pytest

from condense import locks
from condense.errors import RunError
from condense.locks import lock
from condense.runs import Stopped


def test_a_taken_lock_is_refused_or_waited_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "PATIENCE", 0)
    first, looks = lock(tmp_path / "lock"), []

    def wait():
        looks.append(None)
        if len(looks) == 3:
            first.close()

    with pytest.raises(RunError, match=f"{tmp_path} is in use by process"):
        lock(tmp_path / "lock")
    with caplog.at_level("INFO", "condense"), lock(tmp_path / "lock", wait):
        assert len(looks) == 3
        assert caplog.text.count("waiting for process") == 1
        with pytest.raises(RunError):
            lock(tmp_path / "lock")


def test_waiting_can_be_given_up(tmp_path):
    def wait():
        raise Stopped(signal.SIGTERM)

    with lock(tmp_path / "lock"), pytest.raises(Stopped):
        lock(tmp_path / "lock", wait)
    lock(tmp_path / "lock").close()


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(RunError, match="cannot lock"):
        lock(tmp_path / "nowhere" / "lock")
