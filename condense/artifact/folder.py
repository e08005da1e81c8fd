"""A folder that appears complete or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from condense.errors import ConfigError
from condense.files import TEMPORARY, fsync_dir


def refuse_existing(path: Path) -> None:
    """Raise ConfigError if `path` exists, unless it is an empty folder."""
    if any(path.iterdir()) if path.is_dir() else path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists and is not overwritten. Give another name, or move it away.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` when the block ends, and is deleted if the block raises.

    What the block writes is its own to sync. Raises ConfigError if `path` is there already.
    """
    refuse_existing(path)
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    work.mkdir()
    try:
        yield work
        work.rename(path)  # takes the place of an empty folder, never of a full one
    except BaseException:
        shutil.rmtree(work)
        raise
    fsync_dir(path.parent)
