"""The run folder.

config.toml                      every resolved key, its value and where that came from
numerics.json                    what decides the bits beside that (see `condense.numerics`), for each that worked here
metrics.jsonl                    a line an iteration
checkpoints/NNNNNN.safetensors   the state after NNNNNN iterations, the last two
distilled/                       the artifact, once the last iteration is done
result.json                      the final table, once the run has ended
lock                             names the process that is in the folder
"""

import json
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType

from torch import Tensor

from condense.costs import Cost
from condense.errors import RunError
from condense.files import TEMPORARY, write_atomic
from condense.locks import lock
from condense.runs import checkpoint
from condense.runs.checkpoint import Checkpoint
from condense.runs.config_file import fingerprint, origins, to_toml
from condense.runs.metrics import MetricsLog, NoLog
from condense.text import MOST_TOML, parse_toml, read_text


def run_name(dataset: str, method: str, ipc: int, seed: int) -> str:
    """The name of a run's folder: DATASET-METHOD-ipcIPC-seedSEED, of a path the kind and the last part."""
    kind, _, path = dataset.partition(":")
    return f"{kind}-{Path(path).stem}-{method}-ipc{ipc}-seed{seed}" if path else f"{kind}-{method}-ipc{ipc}-seed{seed}"


def read_config(run: Path) -> dict[str, object]:
    """The values in a run's config.toml; a key that was None is missing. Raises RunError if it is not TOML."""
    path = run / "config.toml"
    try:
        if not path.is_file():
            raise ValueError("not a file")
        return parse_toml(read_text(path, MOST_TOML))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not valid TOML: {error}. Undo the changes to it, or start a new run.") from None


class RunFolder:
    """A locked run folder, made by `create` or `open`; leaving its `with` block, or `close`, frees the lock."""

    def __init__(self, path: Path, lock_file: FileIO) -> None:
        self.path = path
        self._lock_file = lock_file
        self._fingerprint: str | None = None

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make and lock a new run folder. Raises RunError if `path` exists and is not an empty folder, or is in use.

        What a process leaves that was killed before it had written config.toml counts as empty.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir() if not entry.name.startswith(TEMPORARY)}
            if names <= {"lock"}:
                return cls(path, lock(path / "lock"))
        except OSError as error:
            raise RunError(
                f"cannot make the run folder {path}: {error.strerror}. Choose another one with --out."
            ) from None
        resume = f"Continue that run with `condense resume {path}`, or choose" if "config.toml" in names else "Choose"
        raise RunError(f"the run folder {path} exists and is not empty. {resume} another folder with --out.")

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Lock the run folder of an earlier run, to resume it.

        Raises RunError if there is no readable config.toml in it, or if another process is in it.
        """
        if not (path / "config.toml").is_file():
            raise RunError(f"{path} is not a run folder: it holds no config.toml. Give the --out of an earlier run.")
        run = cls(path, lock(path / "lock"))
        try:
            run._fingerprint = fingerprint(run.read_config())
        except RunError:
            run.close()
            raise
        return run

    def close(self) -> None:
        self._lock_file.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def artifact_path(self) -> Path:
        return self.path / "distilled"

    def write_config(self, values: Mapping[str, object], origins: Mapping[str, str]) -> None:
        """Write config.toml (see `to_toml`). Checkpoints from now on belong to these values."""
        write_atomic(self.path / "config.toml", to_toml(values, origins).encode())
        self._fingerprint = fingerprint(values)

    def read_config(self) -> dict[str, object]:
        """The values in config.toml (see the function `read_config`)."""
        return read_config(self.path)

    def read_origins(self) -> dict[str, str]:
        """Where each value in config.toml came from, as its trailing comment says; a key without one is missing."""
        return origins((self.path / "config.toml").read_text(encoding="utf-8"))

    def note_numerics(self, here: dict[str, str], *, elsewhere: bool = False) -> None:
        """Add what decides the bits `here` to `numerics`, if it is not what it was.

        Raises RunError if it is not, unless `elsewhere` says that this is meant.
        """
        noted = self.numerics
        if noted and noted[-1] == here:
            return
        if noted and not elsewhere:
            held = noted[-1]
            differ = "; ".join(
                f"{key} was {held.get(key)}, and is {here.get(key)} here"
                for key in sorted(held.keys() | here.keys())
                if held.get(key) != here.get(key)
            )
            raise RunError(
                f"{self.path} was computed where other bits come out: {differ}. Resume it as it began (the number of "
                "threads is that of OMP_NUM_THREADS), or give --elsewhere: its set then says where it was made"
            )
        write_atomic(self.path / "numerics.json", json.dumps([*noted, here], indent=1).encode())

    @property
    def numerics(self) -> list[dict[str, str]]:
        """What decided the bits of each part of the run; empty for runs of earlier versions.

        Raises RunError if the file is damaged.
        """
        path = self.path / "numerics.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return [{str(key): str(value) for key, value in part.items()} for part in held]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged ({error}). Start a new run.") from None

    def write_result(self, content: bytes) -> None:
        """Write result.json: the run is finished, and this is what it found."""
        write_atomic(self.path / "result.json", content)

    def read_result(self) -> bytes | None:
        """The content of result.json; None while the run is not finished."""
        path = self.path / "result.json"
        return path.read_bytes() if path.exists() else None

    def save_checkpoint(self, iteration: int, state: dict[str, Tensor], cost: Cost | None = None) -> None:
        """Save `state` after `iteration` completed iterations (see `condense.runs.checkpoint`), which took `cost`."""
        assert self._fingerprint is not None, "config.toml is written before the first checkpoint"
        checkpoint.save_checkpoint(self.path / "checkpoints", iteration, state, self._fingerprint, cost)

    def latest_checkpoint(self) -> Checkpoint | None:
        """What to go on from, or None to start from the beginning."""
        assert self._fingerprint is not None, "only a run with a config.toml has checkpoints"
        return checkpoint.latest_checkpoint(self.path / "checkpoints", self._fingerprint)

    def metrics(self, start: int) -> MetricsLog:
        """The log metrics.jsonl, cut back to the first `start` iterations."""
        return MetricsLog(self.path / "metrics.jsonl", start)


class FollowedFolder(RunFolder):
    """The folder of a run as processes have it that only read what another one writes; they hold no lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fingerprint = fingerprint(self.read_config())

    def close(self) -> None:
        """There is nothing to free."""

    def save_checkpoint(self, iteration: int, state: dict[str, Tensor], cost: Cost | None = None) -> None:
        """The other one does."""

    def metrics(self, start: int) -> MetricsLog:  # noqa: ARG002
        return NoLog()
