"""A process on a disk that fails: each thing that is written, with each change of a file on the way made to fail.

`python disk_child.py FOLDER NAME...` under LD_PRELOAD of faults.c prints what went wrong as JSON.
"""

import ctypes
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.append(str(Path(__file__).parent / "artifact"))  # for artifact_examples

import torch
from artifact_examples import RECORD, example, save, with_compensators

from condense.artifact import add_evaluations, export, load_artifact
from condense.bench import page
from condense.bench.folder import BenchFolder, Record
from condense.data.preprocess import Preprocessing, _write
from condense.errors import CondenseError
from condense.experts import TrajectoryStore
from condense.files import TEMPORARY, write_atomic
from condense.locks import lock
from condense.rng import generator
from condense.runs import MetricsLog, RunFolder
from condense.runs.checkpoint import latest_checkpoint, save_checkpoint

ERRORS = {
    "no room": (errno.ENOSPC, False),
    "no room any more": (errno.ENOSPC, True),
    "a bad block": (errno.EIO, False),
    "a dead disk": (errno.EIO, True),
    "no right": (errno.EACCES, False),
    "a short write": (0, False),
    "short writes": (0, True),
    "a short write, then no room": (-errno.ENOSPC, True),
}


@dataclass
class Scene:
    """What is there before, how something new is written, and what is read of it: one state, or another."""

    before: Callable[[Path], object]
    write: Callable[[Path], object]
    look: Callable[[Path], Any]
    between: tuple[Any, ...] = ()
    """States that are neither before nor after, and can be gone on from."""


def digest(path: Path) -> str | None:
    if not path.exists():
        return None
    files = sorted(file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def trajectory(expert: int) -> list[torch.Tensor]:
    return list(torch.randn(3, 500, generator=generator(0, "trajectory", expert)))


def store(folder: Path) -> TrajectoryStore:
    return TrajectoryStore.open(folder / "store", identity={"lr": 1}, snapshots=3, parameters=500)


def held(folder: Path) -> Any:
    found = store(folder)
    assert found.damaged(2) == []
    for expert in {0, 1} - set(found.missing(2)):
        assert all(torch.equal(found.snapshot(expert, k), theta) for k, theta in enumerate(trajectory(expert)))
    return found.missing(2), found.manifest.get("ranking") is not None


def write_expert(folder: Path) -> None:
    opened = store(folder)
    if opened.missing(2):
        opened.write(1, trajectory(1))
    opened.ranking(lambda: [torch.arange(50)])


def log(folder: Path) -> None:
    with MetricsLog(folder / "metrics.jsonl", 2) as opened:
        for iteration in (2, 3):
            opened.log(iteration, {"loss": 1.0})
        opened.sync()


def logged(folder: Path) -> Any:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines[:2]] == [0, 1]
    return len(lines) if len(lines) == 4 and lines[3].endswith("}") else 2


def checkpoint(folder: Path, iteration: int) -> None:
    save_checkpoint(folder / "checkpoints", iteration, {"x": torch.full((1000,), float(iteration))}, "f")


def checkpointed(folder: Path) -> int:
    found = latest_checkpoint(folder / "checkpoints", "f")
    assert found is not None and torch.equal(found.state["x"], torch.full((1000,), float(found.iteration)))
    return found.iteration


def begin(folder: Path) -> None:
    there = (folder / "run" / "config.toml").exists()
    with RunFolder.open(folder / "run") if there else RunFolder.create(folder / "run") as run:
        if not there:
            run.write_config({"ipc": 1}, {"ipc": "default"})
        run.write_result(b"{}")


def begun(folder: Path) -> Any:
    path = folder / "run"
    return (path / "config.toml").exists() and RunFolder(path, None).read_config(), digest(path / "result.json")  # type: ignore[arg-type]


def report(folder: Path) -> None:
    record = Record(threads=1, jobs=1, command="x" * 500, machines=())
    BenchFolder(folder).write_record(record)
    results = mock.Mock(folder=BenchFolder(folder))
    made = {"table.csv": "a,b\n" * 100}
    with (
        mock.patch.object(page, "Results", lambda _: results),
        mock.patch.object(page, "make_tables"),
        mock.patch.object(page, "render", lambda *_: "<html>" * 100),
        mock.patch.object(page.files, "table_files", lambda *_: made),
    ):
        page.write_report(folder)


SET = example()
WITH = with_compensators(store=True)
MAP = Preprocessing.from_tensors("mean_std", {"mean": torch.zeros(3), "std": torch.ones(3)})


def loaded(folder: Path) -> Any:
    return load_artifact(folder / "set").manifest.images.shape if (folder / "set").exists() else None


def exported(format: str) -> Scene:
    def write(folder: Path) -> None:
        if digest(folder / "out") is None:
            export(load_artifact(folder / "set"), folder / "out", format)

    return Scene(lambda folder: save(folder / "set", SET), write, lambda folder: digest(folder / "out"))


def nothing(folder: Path) -> None:
    pass


SCENES = {
    "file": Scene(
        lambda folder: write_atomic(folder / "a.json", b"old"),
        lambda folder: write_atomic(folder / "a.json", b"new" * 100_000),
        lambda folder: digest(folder / "a.json"),
    ),
    "checkpoint": Scene(
        lambda folder: [checkpoint(folder, 1), checkpoint(folder, 5)],
        lambda folder: checkpoint(folder, 10),
        checkpointed,
    ),
    "metrics": Scene(
        lambda folder: (folder / "metrics.jsonl").write_text("".join(f'{{"iteration": {i}}}\n' for i in range(3))),
        log,
        logged,
    ),
    "trajectories": Scene(lambda folder: store(folder).write(0, trajectory(0)), write_expert, held, (([], False),)),
    "set": Scene(nothing, lambda folder: loaded(folder) or save(folder / "set", WITH), loaded),
    "evaluation": Scene(
        lambda folder: save(folder / "set", SET),
        lambda folder: (
            len(load_artifact(folder / "set").manifest.evaluations) > 1 or add_evaluations(folder / "set", [RECORD])
        ),
        lambda folder: len(load_artifact(folder / "set").manifest.evaluations),
    ),
    **{f"export {format}": exported(format) for format in ("pt", "npz", "parquet", "png", "folder")},
    "run": Scene(nothing, begin, begun, (({"ipc": 1}, None),)),
    "report": Scene(nothing, report, lambda folder: [digest(folder / "bench.json"), digest(folder / "report")]),
    "cache": Scene(
        nothing, lambda folder: _write(MAP, folder / "cache" / "map"), lambda folder: digest(folder / "cache" / "map")
    ),
    "lock": Scene(nothing, lambda folder: lock(folder / "lock").close(), nothing),
}


def play(name: str, work: Path) -> tuple[int, int, list[str]]:
    """How many changes were made to fail, of how many of these the user was told, and what was wrong after them."""
    scene, faults, wrong = SCENES[name], ctypes.CDLL(None), []
    shutil.rmtree(work, ignore_errors=True)
    (work / "before").mkdir(parents=True)
    scene.before(work / "before")
    old, folder, tried, told = scene.look(work / "before"), work / "now", 0, 0
    shutil.copytree(work / "before", folder)
    scene.write(folder)
    states = (old, scene.look(folder), *scene.between)
    for words, (number, lasting) in ERRORS.items():
        for n in range(10_000):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(work / "before", folder)
            message = None
            faults.fault_arm(os.fsencode(folder), n, number, lasting)
            try:
                scene.write(folder)
            except CondenseError as error:
                message = str(error)
            except BaseException:
                message = ""
                wrong.append(f"{words} {n}: {traceback.format_exc()}")
            finally:
                count = faults.fault_disarm()
            if n >= count:
                break
            tried, told = tried + 1, told + (message is not None)
            try:
                found = scene.look(folder)
                assert found in states or name == "report", f"neither the old nor the new state: {found}"
                assert message is not None or found == states[1], "no error, and not the new state"
                assert not message or (str(folder) in message and TEMPORARY not in message), message
                scene.write(folder)
                assert scene.look(folder) == states[1], "not the new state the next time"
                left = [str(path) for path in folder.rglob(f"{TEMPORARY}*")]
                assert not left, f"left behind: {left}"
            except Exception:
                wrong.append(f"{words} {n}: {traceback.format_exc()}")
    return tried, told, wrong


if __name__ == "__main__":
    logging.disable()
    print(json.dumps({name: play(name, Path(sys.argv[1]) / name) for name in sys.argv[2:] or SCENES}))
