"""The folder of a bench.

grid.toml                  the grid
bench.json                 threads of a cell, commands, and the machines that worked on it
cells/NAME.toml            the keys that the grid gives to a cell
cells/NAME/                its run folder
cells/NAME.log             what its process said
cells/NAME.error           its last words, if it failed
report/                    tables and page
lock                       names the process that is in the folder
"""

from pathlib import Path

from pydantic import BaseModel, Field

from condense.errors import RunError
from condense.files import write_atomic


class BenchFolder:
    """Where things are in a bench."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def grid(self) -> Path:
        return self.path / "grid.toml"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def cells(self) -> Path:
        return self.path / "cells"

    def run(self, cell: str) -> Path:
        return self.cells / cell

    def config(self, cell: str) -> Path:
        return self.cells / f"{cell}.toml"

    def log(self, cell: str) -> Path:
        return self.cells / f"{cell}.log"

    def error(self, cell: str) -> Path:
        return self.cells / f"{cell}.error"

    def started(self, cell: str) -> bool:
        """Whether there is a run to continue."""
        return (self.run(cell) / "config.toml").exists()

    def finished(self, cell: str) -> bool:
        return (self.run(cell) / "result.json").exists()

    def read_record(self) -> "Record | None":
        """The content of bench.json; None if there is none. Raises RunError if it is damaged."""
        path = self.path / "bench.json"
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}). Start a new bench with another --out.") from None

    def write_record(self, record: "Record") -> None:
        write_atomic(self.path / "bench.json", record.model_dump_json(indent=1).encode() + b"\n")


class Record(BaseModel):
    """What decides the bits of a bench beside its grid, and what else a reader of its numbers should know.

    `threads` of each cell: the first command's, for all that follow. `command` and `jobs` are the last one's,
    `machines` all that worked on it, in words.
    """

    threads: int = Field(ge=1)
    jobs: int = Field(ge=1)
    command: str
    machines: tuple[dict[str, str], ...]

    def on(self, machine: dict[str, str]) -> "Record":
        """The same with a machine, if it is a new one."""
        return self if machine in self.machines else self.model_copy(update={"machines": (*self.machines, machine)})
