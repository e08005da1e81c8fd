"""The trajectory store, or "buffer": the parameters of many experts after each epoch, on disk.

A folder with `trajectories.bin`, one array [experts, snapshots, parameters] of little-endian float32 or bfloat16, and
`manifest.json`, which says what the array holds and which experts are finished. An expert is
written, flushed to disk and only then named in the manifest, so a killed store continues with the expert it was at.
So is `ranking.safetensors`, how hard the images are for experts with a curriculum: row numbers from easy to hard,
int64, under the number of each class.
Of what is on disk nothing stays in the memory of a process, however large a store is.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from condense import numerics
from condense.costs import NOTHING, Cost, Meter
from condense.errors import DataError
from condense.files import write_atomic

FORMAT = "condense-trajectories"
VERSION = 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
        file = path / "manifest.json"
        fields = {"format": FORMAT, "version": VERSION, "dtype": dtype, "parameters": parameters}
        if not file.exists():
            made_with = numerics.describe(device)  # for the reader; not compared
            new = {"snapshots": snapshots, "identity": identity, "experts": [], "costs": {}, "made_with": made_with}
            store = cls(path, fields | new, device)
            try:
                path.mkdir(parents=True, exist_ok=True)
                store._save()
            except OSError as error:
                raise DataError(f"trajectory store {path}: cannot be made ({error}); name another folder") from error
            return store
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            held = manifest["identity"] | {key: manifest[key] for key in fields}
            enough = manifest["snapshots"] >= snapshots
            if not all(type(expert) is int and expert >= 0 for expert in manifest["experts"]):
                raise ValueError("experts must be a list of numbers")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"trajectory store {path}: manifest.json is damaged ({error!r}); delete the folder"
            ) from error
        wanted = identity | fields
        different = [
            f"{key}: store has {held.get(key)!r}, this run needs {wanted.get(key)!r}"
            for key in sorted(held.keys() | wanted.keys())
            if held.get(key) != wanted.get(key)
        ]
        if not enough:
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
        yield from self._written(expert, trajectory)
        self._finish(expert, asdict(meter.read()), torch.get_num_threads())

    def take(self, expert: int, store: "TrajectoryStore") -> None:
        """Copy the one expert of another store, which was trained elsewhere, with its cost and threads."""
        for _ in self._written(expert, (store.snapshot(0, epoch) for epoch in range(store.snapshots))):
            pass
        self._finish(expert, store.manifest["costs"]["0"], store.manifest["threads"]["0"])

    def _finish(self, expert: int, cost: dict[str, Any], threads: int) -> None:
        self.manifest["experts"] = sorted({*self.manifest["experts"], expert})
        self.manifest.setdefault("threads", {})[str(expert)] = threads
        self.manifest.setdefault("costs", {})[str(expert)] = cost
        self._save()

    def _written(self, expert: int, trajectory: Iterable[Tensor]) -> Iterator[int]:
        dtype = DTYPES[self.manifest["dtype"]]
        size = self.parameters * dtype.itemsize
        count = 0
        descriptor = os.open(self.path / "trajectories.bin", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for theta in trajectory:
                assert theta.shape == (self.parameters,) and count < self.snapshots
                data = memoryview(theta.detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)
                offset = (expert * self.snapshots + count) * size
                while data:
                    written = os.pwrite(descriptor, data, offset)
                    data, offset = data[written:], offset + written
                count += 1
                yield count
            assert count == self.snapshots, f"{count} snapshots for a store of {self.snapshots}"
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def ranking(self, make: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """The row numbers of each class's images from easy to hard: what `make` gave when it was first asked for.

        The time that this took is kept as a cost. Raises DataError if the file is damaged.
        """
        file = self.path / "ranking.safetensors"
        if "ranking" not in self.manifest:
            meter = Meter(self.device)
            made = save({str(c): rows for c, rows in enumerate(make())})
            write_atomic(file, made)
            self.manifest["ranking"] = hashlib.sha256(made).hexdigest()
            self.manifest.setdefault("costs", {})["ranking"] = asdict(meter.read())
            self._save()
        content = file.read_bytes() if file.exists() else b""
        if hashlib.sha256(content).hexdigest() != self.manifest["ranking"]:
            raise DataError(f"trajectory store {self.path}: {file.name} is missing or damaged; delete the folder")
        held = load(content)
        return [held[str(c)] for c in range(len(held))]

    def cost(self, experts: int, snapshots: int, *, ranked: bool = False) -> Cost | None:
        """What the training of the first `experts` took, whenever that was, as far as `snapshots` of each.

        With that of the ranking, if they are `ranked`. A part of a longer trajectory has its part of the time. None if
        it is not known, as of stores of earlier versions.
        """
        held = self.manifest.get("costs", {})
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
        content = np.fromfile(self.path / "trajectories.bin", np.uint8, size, offset=offset)
        return torch.from_numpy(content).view(dtype).to(self.device, torch.float32)

    def _check_size(self) -> None:
        """Raise DataError if the array ends before its last finished expert; a later write would hide that by zeros."""
        file = self.path / "trajectories.bin"
        held = file.stat().st_size if file.exists() else 0
        count = max(self.manifest["experts"], default=-1) + 1
        expected = count * self.snapshots * self.parameters * DTYPES[self.manifest["dtype"]].itemsize
        if held < expected:
            raise DataError(
                f"trajectory store {self.path}: trajectories.bin has {held} bytes, {expected} are expected; "
                "the file is truncated: delete the folder"
            )

    def _save(self) -> None:
        write_atomic(self.path / "manifest.json", json.dumps(self.manifest, indent=1).encode())
