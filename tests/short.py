"""Protocols of a few steps, so that what is made around an evaluation can be tested in seconds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from condense.evaluation import load_protocol, protocols


@contextmanager
def short_protocols(cache: Path, changes: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """A cache of our own, and no protocols but these, with two networks and the changes."""
    short = {name: replace(load_protocol(name), networks=2, **change) for name, change in changes.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDENSE_CACHE", str(cache))
        patch.setattr(protocols, "load_protocols", lambda: short)
        yield
