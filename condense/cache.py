"""Where things that can be fetched or computed again are kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: the environment variable CONDENSE_CACHE, or ~/.cache/condense. It need not exist yet."""
    base = os.environ.get("CONDENSE_CACHE")
    return Path(base).expanduser() if base else Path.home() / ".cache" / "condense"
