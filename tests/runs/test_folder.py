import os
import signal
import subprocess
import sys
import tomllib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condense.errors import RunError
from condense.files import TEMPORARY
from condense.runs import RunFolder
from condense.runs.config_file import fingerprint, to_toml

VALUES = {"method": "ftd", "ipc": 10, "rho": 1e-05, "zca": True, "widths": (1, 2), "cache": None}
ORIGINS = dict.fromkeys(VALUES, "default")


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    with RunFolder.create(tmp_path / "runs" / "a") as run:
        assert run.path.is_dir()


def test_a_folder_that_is_not_empty_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"not empty. Choose another folder with --out"):
        RunFolder.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_with_a_run_is_refused_with_the_command_that_resumes_it(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.write_config(VALUES, ORIGINS)
    with pytest.raises(RunError, match=f"condense resume {tmp_path}"):
        RunFolder.create(tmp_path)


def test_a_folder_in_which_no_run_began_can_be_used_again(tmp_path):
    for _ in range(2):
        RunFolder.create(tmp_path).close()


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="cannot make the run folder"):
            RunFolder.create(path)


def test_what_a_process_left_that_was_killed_while_it_wrote_the_config_is_no_run(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / f"{TEMPORARY}1234-config.toml").write_text("ipc = ")
    with RunFolder.create(tmp_path) as run:
        run.write_config(VALUES, ORIGINS)
    with pytest.raises(RunError, match="not empty"):
        RunFolder.create(tmp_path)


def test_only_a_folder_with_a_config_can_be_opened(tmp_path):
    with pytest.raises(RunError, match=r"holds no config.toml"):
        RunFolder.open(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "config.toml").write_text("ipc = = 1")
    for _ in range(2):  # twice: the refusal gives the lock back
        with pytest.raises(RunError, match="not valid TOML"):
            RunFolder.open(tmp_path)


def test_the_lock_is_held_until_the_block_ends(tmp_path):
    with RunFolder.create(tmp_path / "run") as run:
        run.write_config(VALUES, ORIGINS)
        with pytest.raises(RunError, match=f"in use by process {os.getpid()} on "):
            RunFolder.open(run.path)
    with RunFolder.open(run.path):
        pass


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from condense.files import TEMPORARY
from condense.runs import RunFolder

run = RunFolder.create(Path(sys.argv[1]))
run.write_config({"ipc": 1}, {"ipc": "default"})
run.save_checkpoint(1, {"images": torch.arange(4.0)})
print("ready", flush=True)
sys.stdin.readline()
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run.save_checkpoint(2, {"images": torch.zeros(4)})
"""


def test_another_process_is_locked_out_until_the_first_dies_and_its_last_whole_checkpoint_stays(tmp_path):
    path = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(RunError, match=f"in use by process {child.pid} on "):
            RunFolder.open(path)
        child.stdin.write("\n")
    assert child.returncode == -signal.SIGKILL

    with RunFolder.open(path) as run:
        iteration, state, _ = run.latest_checkpoint()
        assert iteration == 1
        assert torch.equal(state["images"], torch.arange(4.0))
        run.save_checkpoint(2, state)
    names = {entry.name for entry in (path / "checkpoints").iterdir()}
    assert names == {"000001.safetensors", "000002.safetensors"}  # what the killed process left is gone


def test_config_is_toml_with_origins_in_comments(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.write_config(VALUES, {**ORIGINS, "ipc": "--ipc"})
        assert run.read_config() == {"method": "ftd", "ipc": 10, "rho": 1e-05, "zca": True, "widths": [1, 2]}
    assert (tmp_path / "config.toml").read_text().splitlines() == [
        'method = "ftd"  # default',
        "ipc = 10  # --ipc",
        "rho = 1e-05  # default",
        "zca = true  # default",
        "widths = [1, 2]  # default",
        "# cache is unset  # default",
    ]


SCALARS = st.text() | st.booleans() | st.integers() | st.floats(allow_nan=False)


@given(st.dictionaries(st.text(), SCALARS | st.lists(SCALARS)), st.text())
def test_every_value_comes_back_as_it_was(values, origin):
    back = tomllib.loads(to_toml(values, dict.fromkeys(values, origin)))
    assert back == values
    assert list(map(repr, back.values())) == list(map(repr, values.values()))  # 1, 1.0, True and -0.0 are not the same
    assert fingerprint(back) == fingerprint(values)


def test_the_fingerprint_sees_values_only():
    base = fingerprint({"a": 1, "b": 2.0})
    assert fingerprint({"b": 2.0, "a": 1, "c": None}) == base
    assert fingerprint({"a": 1, "b": 2.5}) != base


def test_a_value_that_toml_lacks_is_refused():
    with pytest.raises(TypeError, match="dict"):
        to_toml({"a": {}}, {"a": "default"})


def test_checkpoints_of_an_edited_config_are_refused(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.write_config(VALUES, ORIGINS)
        run.save_checkpoint(3, {"images": torch.zeros(1)})
    config = tmp_path / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("default", "edited comment"))
    with RunFolder.open(tmp_path) as run:
        assert run.latest_checkpoint()[0] == 3
    config.write_text(text.replace("ipc = 10", "ipc = 11"))
    with RunFolder.open(tmp_path) as run, pytest.raises(RunError, match="another configuration"):
        run.latest_checkpoint()
