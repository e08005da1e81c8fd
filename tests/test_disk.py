"""A disk that fails anywhere: what was there before is whole, or what is new; the user is told, and the next try works.

Every change of a file (open, write, sync, rename, mkdir, delete, cut) is made to fail in turn, by a few lines of C that
stand between the process and the C library: no room, a bad block, no right, writes that take a part.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from condense.cli import main
from condense.errors import DiskError
from condense.files import atomic_folder, write_atomic

HERE = Path(__file__).parent
NAMES = (
    "file", "checkpoint", "metrics", "trajectories", "set", "evaluation", "export pt", "export npz", "export parquet",
    "export png", "export folder", "run", "report", "cache", "lock",
)  # fmt: skip


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int, list[str]]]:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux")
    folder = tmp_path_factory.mktemp("disk")
    library = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [sys.executable, HERE / "disk_child.py", folder], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_a_failing_disk_leaves_the_old_or_the_new(name: str, played: dict[str, tuple[int, int, list[str]]]) -> None:
    """Six of the eight faults are errors. What they keep from being deleted is deleted later, and nobody is told."""
    tried, told, wrong = played[name]
    assert not wrong, "\n".join(wrong)
    assert tried >= 8 and told > tried / 3


def test_every_scene_is_played(played: dict[str, tuple[int, int, list[str]]]) -> None:
    assert set(NAMES) == set(played)


def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    for name in (".tmp-0123abcd-set", ".tmp-0123abcd-other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    (tmp_path / ".tmp-89abcdef-set").touch()
    with atomic_folder(tmp_path / "set") as first:
        with pytest.raises(RuntimeError), atomic_folder(tmp_path / "set"):
            assert first.exists()
            raise RuntimeError
        (first / "data").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"set", ".tmp-0123abcd-other"}


def test_the_message_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"file/a\.json cannot be written: Not a directory\. .*condense resume"):
        write_atomic(tmp_path / "file" / "a.json", b"")


def test_links_are_not_written_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are written in place: a run folder from elsewhere may hold a link in place of one."""
    (tmp_path / "thesis.tex").write_text("x")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("ipc = 1\n")
    (run / "lock").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(SystemExit) as caught:
        main(["resume", str(run)])
    assert caught.value.code == 2 and "cannot lock" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "x"
