import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for artifact_examples, which child processes import as well

from artifact_examples import example, save


@pytest.fixture
def artifact_folder(tmp_path: Path) -> Path:
    """A sound artifact: mean and std, colour, hard labels."""
    return save(tmp_path / "set", example())
