"""docs/evaluation.md: its Python runs, and its tables are those of the code."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from condense import api
from condense.evaluation import Augmentation, Evaluation, load_protocols, protocols

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def first_cells(heading):
    """The names in the first column of the table that follows a heading."""
    table = re.search(rf"^#+ {re.escape(heading)}\n.*?\n(\|.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert table
    cells = [line.split("|")[1] for line in table.group(1).splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_protocol_augmentation_and_key_has_a_row():
    assert first_cells("Protocols") == set(load_protocols())
    assert first_cells("Augmentations of a protocol") == set(get_args(Augmentation))
    assert first_cells("Records") == set(Evaluation.__dataclass_fields__)


@pytest.mark.parametrize("name", ["fair", "fair_updates"])
def test_the_page_states_the_settings_of_the_fair_protocols(name):
    protocol = load_protocols()[name]
    text = PAGE[PAGE.index("### `fair`") :]
    assert all(f"{rate:g}" in text for rate in protocol.lrs)
    if protocol.epochs:
        assert f"{protocol.epochs} epochs, batches of {protocol.batch}" in text
        assert f"it trains {protocol.full_data_epochs} epochs" in text
    else:
        assert f"gives every set {protocol.updates}" in text


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """With a tenth of the epochs."""
    short = {name: replace(load_protocols()[name], epochs=30) for name in ("dc300", "fair", "quick")}
    monkeypatch.setattr(protocols, "load_protocols", lambda: short)
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    settings = {"network": "mlp", "eval_repeats": 1, "baselines": (), "full_data": False}
    api.distill("random", 1, out=tmp_path / "run", **settings).artifact.rename(tmp_path / "distilled")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    printed = [line.partition(":")[0].split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["mlp", "convnet", "Mine"]
    mine = names["mine"]
    assert mine.mean > 0.6 and mine.lr in [pilot.lr for pilot in mine.pilots] and len(mine.values) == mine.n == 5
