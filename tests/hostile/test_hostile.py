"""Files that somebody made to do harm, or that chance made: they are read, or refused in words. Nothing else happens.

`make test` tries a few dozen of each kind, `make test-fuzz` ten thousand.
"""

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from artifact_examples import example, save, with_compensators, with_store
from guard import Effort, judged
from hypothesis import HealthCheck, given, settings
from kept import KEPT
from mutants import Template

import condense._torchvision  # noqa: F401 (names of networks are looked up in it, and it compiles code of its own)
from condense.artifact import load_artifact, stored_bytes
from condense.bench import read_grid
from condense.cli.report import manifest_text
from condense.config import read_config_file, read_evaluation, read_resolved, resolve
from condense.costs import Cost
from condense.errors import CondenseError
from condense.experts import TrajectoryStore
from condense.rng import generator
from condense.runs import RunFolder, read_config
from condense.runs.checkpoint import _sha256, latest_checkpoint, save_checkpoint
from condense.runs.config_file import fingerprint, origins

FEW, MANY = 40, 10_000
IDENTITY = {"data_sha256": "ab" * 32, "network": "mlp", "lr": 0.01, "adaptive": True}
CONFIG = """
method = "ftd"
ipc = 2
dataset = "digits"
network = "convnet:width=8"
eval_networks = ["mlp", "convnet"]
dsa = "color_crop"
lr_img = 100.0
buffer = "experts"
syn_steps = 3
validation = 0.2
device = "cpu"
memory_limit = 2.5
baselines = ["random"]
tracker = []
"""
GRID = """
methods = ["dm", "wide"]
ipc = [1, 2]
datasets = ["digits"]
seeds = [0, 1]
networks = ["mlp"]
protocol = "quick"
baselines = ["random"]
[set]
device = "cpu"
[method.wide]
method = "dm"
batch_real = 8
"""


# what is valid, and how it is signed


def artifact(made: Callable[[], Any]) -> Callable[[Path], None]:
    return lambda folder: save(folder, made()) and None


def trajectories(folder: Path) -> None:
    store = TrajectoryStore.open(folder, identity=IDENTITY, snapshots=3, parameters=5)
    for expert in (0, 1):
        store.write(expert, torch.randn(3, 5, generator=generator(0, "trajectory", expert)))
    store.ranking(lambda: [torch.tensor([2, 0]), torch.tensor([1])])


def text(name: str, content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / name).write_text(content)

    return write


def run(folder: Path) -> None:
    values = resolve([read_config_file(_config(folder.parent))])
    with RunFolder.create(folder) as made:
        made.write_config(values.values(), values.origins)
    (folder / "lock").unlink()


def _config(folder: Path) -> Path:
    (folder / "given.toml").write_text(CONFIG)
    return folder / "given.toml"


def checkpoint(folder: Path) -> None:
    state = {"images": torch.ones(2, 3), "steps": torch.tensor(7), "half": torch.ones(3, dtype=torch.bfloat16)}
    save_checkpoint(folder, 5, state, "f", Cost(1.5, 100))


def sign_payload(manifest: Any, content: dict[str, bytes]) -> None:
    for name, payload in manifest["payload"].items():
        if name in content and isinstance(payload, dict):
            payload |= {"bytes": len(content[name]), "sha256": hashlib.sha256(content[name]).hexdigest()}


def sign_experts(manifest: Any, content: dict[str, bytes]) -> None:
    manifest["ranking"] = hashlib.sha256(content["ranking.safetensors"]).hexdigest()


def sign_metadata(header: Any, content: dict[str, bytes]) -> None:
    metadata = header["__metadata__"]
    metadata.pop("sha256")
    metadata["sha256"] = _sha256(safetensors.torch.load(content["000005.safetensors"]), metadata)


def unsigned(value: Any, content: dict[str, bytes]) -> None:
    pass


# what is done with it


def use_artifact(folder: Path) -> None:
    """All that is done with a set without training on it."""
    loaded = load_artifact(folder)
    repr(loaded), loaded[0], loaded.pixels(), stored_bytes(loaded.manifest)
    assert all(line.isprintable() for line in manifest_text(loaded.manifest).split("\n"))
    if loaded.store is not None:
        for epoch in range(loaded.store.views.epochs):
            list(loaded.replay(epoch))
    read_evaluation(loaded.manifest.config, "eval")


def use_trajectories(folder: Path) -> None:
    if not any((folder / name).exists() for name in ("manifest.json", "trajectories.bin")):
        return  # an empty store would be made there
    store = TrajectoryStore.open(folder, identity=IDENTITY, snapshots=3, parameters=5)
    store.cost(2, 3, ranked=True)
    store.damaged(2)
    for expert in {0, 1} - set(store.missing(2)):
        for epoch in range(3):
            assert store.snapshot(expert, epoch).shape == (5,)
    if store.manifest.get("ranking"):
        store.ranking(list)


def use_config(folder: Path) -> None:
    if (folder / "config.toml").is_fifo():
        return  # as in --config <(...): a user's own pipe may take its time
    resolve([read_config_file(folder / "config.toml")]).values()


def use_run(folder: Path) -> None:
    values = read_config(folder)
    fingerprint(values)
    read_resolved(values, "config.toml", origins((folder / "config.toml").read_text(encoding="utf-8"))).values()


def use_grid(folder: Path) -> None:
    if (folder / "grid.toml").is_fifo():
        return
    for cell in read_grid(folder / "grid.toml").cells()[:3]:
        cell.resolve()


KINDS: dict[str, tuple[Callable[[Path], None], str, Callable[[Any, dict[str, bytes]], None], Callable[[Path], Any]]] = {
    "hard": (artifact(lambda: example(ipc=1)), "manifest.json", sign_payload, use_artifact),
    "store": (artifact(lambda: with_store(factor=2, group=2)), "manifest.json", sign_payload, use_artifact),
    "compensators": (
        artifact(lambda: with_compensators(soft=True, store=True)),
        "manifest.json",
        sign_payload,
        use_artifact,
    ),
    "trajectories": (trajectories, "manifest.json", sign_experts, use_trajectories),
    "config": (text("config.toml", CONFIG), "config.toml", unsigned, use_config),
    "run": (run, "config.toml", unsigned, use_run),
    "grid": (text("grid.toml", GRID), "grid.toml", unsigned, use_grid),
    "checkpoint": (
        checkpoint,
        "000005.safetensors",
        sign_metadata,
        lambda folder: latest_checkpoint(folder, "f"),
    ),
}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    """The valid files of each kind. They are read once, so that what is imported on the way is there."""
    found = {}
    for kind, (make, manifest, sign, use) in KINDS.items():
        folder = tmp_path_factory.mktemp(kind) / "valid"
        if kind == "checkpoint":
            folder.mkdir()
        make(folder)
        use(folder)
        found[kind] = Template(folder, manifest, sign)
        assert read(kind, found[kind], [["sign"]])[0] is None, kind  # what is signed here is as good
    return found


def read(kind: str, template: Template, changes: list[list[Any]]) -> tuple[str | None, Effort]:
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        template.write(folder, changes)
        return judged(KINDS[kind][3], folder, CondenseError)
    finally:
        shutil.rmtree(folder)


def attack(kind: str, template: Template, examples: int) -> tuple[Counter[str], Effort]:
    counts: Counter[str] = Counter()
    most = Effort(0, 0)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples == FEW,
        suppress_health_check=list(HealthCheck),
    )
    @given(template.changes())
    def one(changes: list[list[Any]]) -> None:
        message, effort = read(kind, template, changes)
        counts["taken" if message is None else "refused"] += 1
        most.seconds, most.bytes = max(most.seconds, effort.seconds), max(most.bytes, effort.bytes)

    one()
    return counts, most


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_are_read_or_refused(kind: str, templates: dict[str, Template]) -> None:
    assert attack(kind, templates[kind], FEW)[0]["refused"]


@pytest.mark.parametrize("kind, changes", [(kind, changes) for kind in KEPT for changes in KEPT[kind]])
def test_what_once_did_harm(kind: str, changes: list[list[Any]], templates: dict[str, Template]) -> None:
    read(kind, templates[kind], changes)


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_are_read_or_refused(
    kind: str, templates: dict[str, Template], capsys: pytest.CaptureFixture[str]
) -> None:
    counts, most = attack(kind, templates[kind], MANY)
    with capsys.disabled():
        print(f"\n{kind}: {dict(counts)}, at most {most.seconds:.2f} s and {most.bytes / 1e6:.0f} MB")
