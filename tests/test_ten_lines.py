"""The ten lines of docs/format.md, without condense, reach the accuracy that the evaluator records."""

import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
from safetensors.torch import save_file

from condense import api
from condense.data import load_dataset

BLOCKED = "import sys; sys.modules['condense'] = None\n"


@pytest.mark.slow
def test_the_recorded_accuracy_without_condense(tmp_path, monkeypatch):
    """The same protocol, plain1000, as n = 5 networks of other seeds: the means differ by less than both intervals."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    settings = {"network": "convnet", "iterations": 60, "num_experts": 2, "protocol": "plain1000", "baselines": ()}
    run = api.distill("ftd", 1, out=tmp_path / "run", full_data=False, **settings)
    recorded = run.evaluations[0]

    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2])
    test = load_dataset("digits").test
    save_file({"images": test.images, "labels": test.labels}, run.run / "test.safetensors")
    values = []
    for seed in range(5):
        script = f"{BLOCKED}import torch; torch.manual_seed({seed})\n{code}"
        done = subprocess.run([sys.executable, "-c", script], cwd=run.run, capture_output=True, text=True, check=True)
        values.append(float(re.search(r"test accuracy ([\d.]+)", done.stdout).group(1)))
    spread = 2.776 * (sum((v - fmean(values)) ** 2 for v in values) / 4 / 5) ** 0.5
    assert abs(fmean(values) - recorded.mean) <= recorded.ci95 + spread, (values, recorded.values)
