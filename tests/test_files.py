import os
from pathlib import Path

import pytest

from condense.files import atomic, write_atomic


def test_replaces_the_content_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_middle_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writes_beside_the_target_under_its_extension_until_the_end(tmp_path):
    path = tmp_path / "preview.png"
    with atomic(path) as temporary:
        temporary.write_bytes(b"x")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        assert not path.exists()
    assert path.exists()


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "cache"
    with atomic(path) as first, atomic(path) as second:
        first.write_bytes(b"1")
        second.write_bytes(b"2")
    assert path.read_bytes() == b"1"  # the outer block ends last


def test_data_is_on_disk_before_its_name_and_the_name_after(tmp_path, monkeypatch):
    """The order that a power cut needs: sync the file, rename, sync the folder."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        calls.append("folder" if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path else "file")
        fsync(descriptor)

    def record_replace(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_atomic(tmp_path / "a", b"x")
    assert calls == ["file", "rename", "folder"]
