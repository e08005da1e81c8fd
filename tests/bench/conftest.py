import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for fabricated_bench and headless


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
