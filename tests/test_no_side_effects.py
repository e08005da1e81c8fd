"""No public call changes what belongs to the whole process: in a new one, where libraries load for the first time."""

import os
import subprocess
import sys

import pytest

import condense

CHILD = """
import logging, os, random, sys, warnings
import numpy as np
import torch
import condense
from condense import api

def surroundings():
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": str(np.random.get_state()),
        "Python's random state": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "warnings filters": list(warnings.filters),
        "environment": dict(os.environ),
        "working folder": os.getcwd(),
        "root logger": (logging.root.level, list(logging.root.handlers), logging.root.disabled),
        "matmul precision": torch.get_float32_matmul_precision(),
        "derivatives": (torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()),
    }

def changed(call):
    before = surroundings()
    call()
    after = surroundings()
    return [f"{call.__name__}: {name}" for name in before if before[name] != after[name]]

torch.manual_seed(1), np.random.seed(2), random.seed(3)
SMALL = dict(network="convnet:width=4,depth=2", recipe="none", compile="off", baselines=(), full_data=False)
SMALL["eval_repeats"] = 1
RUN = dict(SMALL, init="kmeans", iterations=2, checkpoint_every=1, eval_every=1, tracker=TRACKERS)
EXPERTS = dict(SMALL, num_experts=1, max_start_epoch=1, expert_epochs=1, expert_batch=1024, syn_steps=1)
"""

FIRST = """
from dataclasses import replace
from condense.evaluation import load_protocol, protocols
from condense.config import Layer, resolve
brief = {"quick": replace(load_protocol("quick"), epochs=1)}
protocols.load_protocols = lambda: brief
def resolved(method, keys): return resolve([Layer("test", {"method": method, **keys})])

def distill(): condense.distill("dm", 1, out="run", **RUN)
def resume(): condense.resume("run")
def load(): condense.load("run/distilled").pixels()
def evaluate(): condense.evaluate("run/distilled", n=1)
def of_an_artifact(): condense.evaluate(condense.load("run/distilled"), ["mlp"], n=1)
def list_methods(): condense.list_methods()
def train_buffer(): api.train_buffer(resolved("mtt", EXPERTS))
def higher(): condense.distill("mtt", 1, out="higher", unroll="higher", iterations=1, **EXPERTS)
def teachers(): condense.distill("random_soft", 1, out="soft", zca=True, teacher_epochs=1, **SMALL)
def export():
    from condense.artifact import FORMATS, export
    for format in FORMATS: export(condense.load("run/distilled"), api.Path("as") / format, format)
def import_set():
    np.savez("set.npz", images=np.zeros((10, 1, 8, 8), np.float32), labels=np.arange(10))
    api.import_set("set.npz", "imported", dataset="digits", mean=[0.3], std=[0.3])
def verify():
    from condense.artifact import verify
    verify(api.Path("run/distilled"))
CALLS = [distill, resume, load, evaluate, of_an_artifact, list_methods, train_buffer, higher, teachers, export]
CALLS += [import_set, verify]
found = [word for call in CALLS for word in changed(call)]
print("\\n".join(found))
"""


def child(code, folder, trackers=()):
    environment = os.environ | {"CONDENSE_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {
        name: value for name, value in environment.items() if not name.startswith(("KMP_", "TORCHINDUCTOR_"))
    }
    program = CHILD.replace("TRACKERS", repr(trackers)) + code
    ended = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout.split("\n")


def test_calls_of_the_package_leave_the_process_alone(tmp_path):
    assert [line for line in child(FIRST, tmp_path) if line] == []


def test_every_public_name_is_called_here():
    """`tune_allocator` is for programs, and says what it changes."""
    tried = {"Artifact", "RunResult", "tune_allocator"}
    assert {name for name in condense.__all__ if f"condense.{name}(" not in FIRST} == tried


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_leaves_it_alone(tracker, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    code = FIRST.partition("CALLS =")[0] + "print('\\n'.join(changed(distill)))"
    found = [line for line in child(code, tmp_path, (tracker,)) if line.startswith("distill: ")]
    assert found == []
