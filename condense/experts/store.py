"""The trajectory store, or "buffer": the parameters of many experts after each epoch, on disk.

A folder with `trajectories.bin`, one array [experts, snapshots, parameters] of little-endian float32 or bfloat16, and
`manifest.json`, which says what the array holds and which experts are finished. An expert is
written, flushed to disk and only then named in the manifest, so a killed store continues with the expert it was at.
So is `ranking.safetensors`, how hard the images are for experts with a curriculum: row numbers from easy to hard,
int64, under the number of each class.
Of what is on disk nothing stays in the memory of a process, however large a store is. The manifest has a SHA-256 of
each expert and one of itself.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from condense import numerics
from condense.costs import NOTHING, Cost, Meter
from condense.errors import DataError
from condense.files import write_atomic, writing
from condense.text import MOST_JSON, SEAL, is_whole, parse_json, read_text, seal

FORMAT = "condense-trajectories"
VERSION = 2
READABLE = (1, 2)
"""Version 1 has no SHA-256 of experts and manifest."""
MANIFEST, ARRAY, RANKING = "manifest.json", "trajectories.bin", "ranking.safetensors"
CHUNK = 2**20
"""Bytes of the array that are hashed at a time."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Cost(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    seconds: float = Field(ge=0)
    peak_bytes: int = Field(ge=0)


class _Manifest(BaseModel):
    """Of which types manifest.json is. `sha256` is of each finished expert that this version wrote."""

    model_config = ConfigDict(strict=True)

    format: str
    version: int | str
    dtype: str
    parameters: int = Field(ge=1)
    snapshots: int = Field(ge=2)
    identity: dict[str, JsonValue]
    experts: Annotated[list[Annotated[int, Field(ge=0)]], FailFast()]
    costs: dict[str, _Cost] = {}
    threads: dict[str, Annotated[int, Field(ge=1)]] = {}
    sha256: dict[str, Sha256] = {}
    ranking: Sha256 | None = None


class TrajectoryStore:
    """Expert trajectories of one identity: data, preprocessing, network, optimiser, seed.

    `identity` is a flat dictionary of plain values. A store on disk with another identity is refused.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], device: torch.device) -> None:
        self.path = path
        self.manifest = manifest
        self.device = device

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        identity: dict[str, Any],
        snapshots: int,
        parameters: int,
        dtype: str = "float32",
        device: torch.device | None = None,
    ) -> "TrajectoryStore":
        """Open the store at `path`, or start an empty one.

        A store may hold more snapshots than are asked for. Raises DataError for another identity or dtype or fewer
        snapshots, naming each field that differs, and for a damaged manifest, a truncated array or a path that cannot
        be written to.
        """
        device = device or torch.device("cpu")
        fields = {"format": FORMAT, "version": VERSION, "dtype": dtype, "parameters": parameters}
        if not (path / MANIFEST).exists() and not (path / MANIFEST).is_symlink():
            if (path / ARRAY).exists():
                raise DataError(f"trajectory store {path}: {ARRAY} is there, {MANIFEST} is missing; delete the folder")
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"trajectory store {path}: cannot be made ({error}); name another folder") from error
            made_with = numerics.describe(device)  # for the reader; not compared
            new = {
                "snapshots": snapshots,
                "identity": identity,
                "experts": [],
                "costs": {},
                "threads": {},
                "sha256": {},
            }
            store = cls(path, fields | new | {"made_with": made_with}, device)
            store._save()
            return store
        manifest = _read(path)
        held = manifest["identity"] | {key: manifest[key] for key in fields}
        if held["version"] in READABLE:
            held["version"] = VERSION
        wanted = identity | fields
        different = [
            f"{key}: store has {held.get(key)!r}, this run needs {wanted.get(key)!r}"
            for key in sorted(held.keys() | wanted.keys())
            if held.get(key) != wanted.get(key)
        ]
        if manifest["snapshots"] < snapshots:
            different.append(f"snapshots: store has {manifest['snapshots']}, this run needs {snapshots}")
        if different:
            raise DataError(
                f"trajectory store {path} was made for another run: {'; '.join(different)}. "
                "Name another folder with --set buffer=PATH, or leave it out and a fitting store is made"
            )
        store = cls(path, manifest, device)
        store._check_size()
        return store

    @property
    def snapshots(self) -> int:
        return int(self.manifest["snapshots"])

    @property
    def parameters(self) -> int:
        return int(self.manifest["parameters"])

    def missing(self, experts: int) -> list[int]:
        """Which of the experts 0 .. experts - 1 are still to be trained."""
        return sorted(set(range(experts)) - set(self.manifest["experts"]))

    def damaged(self, experts: int) -> list[int]:
        """Which of the experts 0 .. experts - 1 are finished, and not the bytes that were written.

        All of them are read. Those that version 1 wrote count as whole.
        """
        known = [expert for expert in range(experts) if expert in self.manifest["experts"]]
        known = [expert for expert in known if str(expert) in self.manifest["sha256"]]
        return [expert for expert in known if self._sha256(expert) != self.manifest["sha256"][str(expert)]]

    def forget(self, experts: Iterable[int]) -> None:
        """Let these experts be missing, so that they are trained again."""
        gone = set(experts)
        self._save(experts=[expert for expert in self.manifest["experts"] if expert not in gone])

    def write(self, expert: int, trajectory: Iterable[Tensor]) -> None:
        """Write one expert's snapshots, each [P], as they come; it counts only once all of them are on disk.

        The time that they take to come, and to be written, is kept as the expert's cost, and the number of threads that
        this process computes with beside it: the bits depend on it.
        """
        for _ in self.writing(expert, trajectory):
            pass

    def writing(self, expert: int, trajectory: Iterable[Tensor]) -> Iterator[int]:
        """`write`, yielding after each snapshot how many are written."""
        meter = Meter(self.device)
        sha256 = yield from self._written(expert, trajectory)
        self._finish(expert, sha256, asdict(meter.read()), torch.get_num_threads())

    def take(self, expert: int, store: "TrajectoryStore") -> None:
        """Copy the one expert of another store, which was trained elsewhere, with its cost and threads."""
        for _ in self._written(expert, (store.snapshot(0, epoch) for epoch in range(store.snapshots))):
            pass
        self._finish(expert, *(store.manifest[key]["0"] for key in ("sha256", "costs", "threads")))

    def _finish(self, expert: int, sha256: str, cost: dict[str, Any], threads: int) -> None:
        of_each = {"sha256": sha256, "costs": cost, "threads": threads}
        parts = {key: self.manifest[key] | {str(expert): value} for key, value in of_each.items()}
        self._save(experts=sorted({*self.manifest["experts"], expert}), **parts)

    def _written(self, expert: int, trajectory: Iterable[Tensor]) -> Generator[int, None, str]:
        """Yields how many snapshots are written after each; returns their SHA-256."""
        dtype = DTYPES[self.manifest["dtype"]]
        size = self.parameters * dtype.itemsize
        count = 0
        digest = hashlib.sha256()
        with writing(self.path / ARRAY):
            descriptor = os.open(self.path / ARRAY, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            for theta in trajectory:
                assert theta.shape == (self.parameters,) and count < self.snapshots
                data = memoryview(theta.detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)
                offset = (expert * self.snapshots + count) * size
                digest.update(data)
                with writing(self.path / ARRAY):
                    while data:
                        written = os.pwrite(descriptor, data, offset)
                        data, offset = data[written:], offset + written
                count += 1
                yield count
            assert count == self.snapshots, f"{count} snapshots for a store of {self.snapshots}"
            with writing(self.path / ARRAY):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return digest.hexdigest()

    def ranking(self, make: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """The row numbers of each class's images from easy to hard: what `make` gave when it was first asked for.

        The time that this took is kept as a cost. Raises DataError if the file is damaged.
        """
        file = self.path / RANKING
        if self.manifest.get("ranking") is None:
            meter = Meter(self.device)
            made = save({str(c): rows for c, rows in enumerate(make())})
            write_atomic(file, made)
            costs = self.manifest["costs"] | {"ranking": asdict(meter.read())}
            self._save(costs=costs, ranking=hashlib.sha256(made).hexdigest())
        try:
            content = file.read_bytes() if file.is_file() else b""
            if hashlib.sha256(content).hexdigest() != self.manifest["ranking"]:
                raise ValueError("its SHA-256 is that of another content")
            held = load(content)
            ranking = [held[str(c)] for c in range(len(held))]
            if any(rows.dtype != torch.int64 or rows.ndim != 1 or bool((rows < 0).any()) for rows in ranking):
                raise ValueError("it must hold row numbers")
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(
                f"trajectory store {self.path}: {file.name} is missing or damaged ({error}); delete the folder"
            ) from error
        return ranking

    def cost(self, experts: int, snapshots: int, *, ranked: bool = False) -> Cost | None:
        """What the training of the first `experts` took, whenever that was, as far as `snapshots` of each.

        With that of the ranking, if they are `ranked`. A part of a longer trajectory has its part of the time. None if
        it is not known, as of stores of earlier versions.
        """
        held = self.manifest["costs"]
        try:
            costs = [Cost(**held[str(expert)]) for expert in range(experts)]
            ranking = Cost(**held["ranking"]) if ranked else NOTHING
        except (KeyError, TypeError):
            return None
        share = (snapshots - 1) / (self.snapshots - 1)
        return Cost(share * sum(cost.seconds for cost in costs), max(cost.peak_bytes for cost in costs)).after(ranking)

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """theta [P] of a finished expert after `epoch` epochs, as float32 memory of its own.

        It is read from the file, which the system keeps in memory as long as there is room.
        """
        assert expert in self.manifest["experts"] and epoch < self.snapshots
        dtype = DTYPES[self.manifest["dtype"]]
        size = self.parameters * dtype.itemsize
        offset = (expert * self.snapshots + epoch) * size
        content = np.fromfile(self.path / ARRAY, np.uint8, size, offset=offset)
        return torch.from_numpy(content).view(dtype).to(self.device, torch.float32)

    def _sha256(self, expert: int) -> str:
        """Of what the array has of this expert."""
        digest = hashlib.sha256()
        size = self.snapshots * self.parameters * DTYPES[self.manifest["dtype"]].itemsize
        with (self.path / ARRAY).open("rb") as file:
            file.seek(expert * size)
            for start in range(0, size, CHUNK):
                digest.update(file.read(min(CHUNK, size - start)))
        return digest.hexdigest()

    def _check_size(self) -> None:
        """Raise DataError if the array ends before its last finished expert; a later write would hide that by zeros."""
        file = self.path / ARRAY
        held = file.stat().st_size if file.is_file() else 0
        count = max(self.manifest["experts"], default=-1) + 1
        expected = count * self.snapshots * self.parameters * DTYPES[self.manifest["dtype"]].itemsize
        if held < expected:
            raise DataError(
                f"trajectory store {self.path}: {file.name} has {held} bytes, {expected} are expected; "
                "the file is truncated: delete the folder"
            )

    def _save(self, **changes: Any) -> None:
        manifest = self.manifest | {"version": VERSION} | changes
        text = seal(manifest, indent=1)
        if len(text) > MOST_JSON:
            raise DataError(f"trajectory store {self.path}: too many experts for one store; name another folder")
        write_atomic(self.path / MANIFEST, text)
        self.manifest = manifest


def _read(path: Path) -> dict[str, Any]:
    """The manifest of the store at `path`, without its seal. Raises DataError if it is damaged."""
    try:
        if not (path / MANIFEST).is_file():
            raise ValueError("not a file")
        content = read_text(path / MANIFEST, MOST_JSON)
        manifest = parse_json(content)
        _Manifest.model_validate(manifest)
        stamp = manifest.pop(SEAL, None)
        if stamp is None and manifest["version"] == VERSION:
            raise ValueError("no seal")
        if stamp is not None and not (isinstance(stamp, str) and is_whole(content, stamp)):
            raise ValueError("its seal is that of another text")
    except (OSError, ValueError) as error:
        words = str(error) if not isinstance(error, ValidationError) else error.errors(include_url=False)[0]
        raise DataError(f"trajectory store {path}: {MANIFEST} is damaged ({words}); delete the folder") from error
    return {"costs": {}, "threads": {}, "sha256": {}} | dict(manifest)
