"""Nothing is lost and nothing changes when processes are killed, or meet (see `harness`)."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from condense.methods import METHODS

HARNESS = Path(__file__).parent / "harness.py"
SAMPLED = ("ftd", "dm", "sre2l", "random_soft", "buffer", "bench", "export npz")


def told(folder, *arguments):
    """The lines of a harness in a process of its own, quiet lives first."""
    command = [sys.executable, str(HARNESS), str(folder / "kills"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(HARNESS.parents[2])}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    return [line for line in lines if "quiet" in line], [line for line in lines if "quiet" not in line]


def assert_all_the_same(quiet, kills):
    """Whatever looked on, another save interval, another number of jobs; and whatever was killed."""
    assert not [line for line in quiet if line["watched is the same"] is False]
    assert not [line for line in kills if not line["died"] or not line["same"]]


def test_a_sample_of_kills(tmp_path):
    quiet, (_, *kills) = told(tmp_path, "--sample", "20", *(word for name in SAMPLED for word in ("--scenario", name)))
    assert_all_the_same(quiet, kills)
    assert len(kills) >= 20 and {line["signal"] for line in kills} == {"SIGKILL", "SIGTERM", "SIGINT"}


@pytest.mark.kill
def test_every_method_at_every_place(tmp_path):
    quiet, (places, *kills) = told(tmp_path)
    assert_all_the_same(quiet, kills)
    assert {(line["place"], line["moment"]) for line in kills} >= {tuple(place) for place in places["places"]}
    assert {line["scenario"] for line in kills} >= {*METHODS, "buffer", "bench"}
    assert len(kills) >= 200 and min(Counter(line["signal"] for line in kills).values()) >= 20


def test_a_race_of_each_kind(tmp_path):
    _, races = told(tmp_path, "--races", "6")
    assert not [line for line in races if not line["fine"]] and len({line["race"] for line in races}) == 6


@pytest.mark.kill
def test_a_hundred_races(tmp_path):
    _, races = told(tmp_path, "--races", "100")
    assert not [line for line in races if not line["fine"]] and len(races) == 100
