"""A folder that appears complete or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from condense.errors import ConfigError
from condense.files import atomic_folder


def refuse_existing(path: Path) -> None:
    """Raise ConfigError if `path` exists, unless it is an empty folder."""
    if any(path.iterdir()) if path.is_dir() else path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists and is not overwritten. Give another name, or move it away.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As `atomic_folder`. Raises ConfigError if `path` is there already."""
    refuse_existing(path)
    with atomic_folder(path.absolute()) as work:
        yield work
