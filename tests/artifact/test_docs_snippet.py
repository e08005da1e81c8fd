"""docs/format.md is true: its ten lines train, its tables are complete, and a set written by it alone loads."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from conftest import save
from pydantic import BaseModel

from condense.artifact import DatasetRecord, EvaluationRecord, Manifest, MethodRecord, load_artifact
from condense.artifact.format import ImagesRecord, LabelsRecord, Payload, PreprocessingRecord
from condense.data.preprocess import Preprocessing

DOCS = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
DEFINITIONS, TEN_LINES = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


def test_ten_lines() -> None:
    assert len(TEN_LINES.splitlines()) == 10
    imported = set(re.findall(r"^(?:import|from) (.*?)(?: import .*)?$", DEFINITIONS, re.MULTILINE))
    assert imported == {"json, math", "torch", "safetensors.torch", "torch.nn"} | {"torch"}


def blobs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes of noisy 4 x 4 colour patterns, as uint8 [n, 3, 4, 4], and labels [n]."""
    patterns = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = 0.2 + 0.6 * patterns[labels] + 0.1 * torch.randn(n, 3, 4, 4, generator=random)
    return (images.clamp(0, 1) * 255).round().byte(), labels
