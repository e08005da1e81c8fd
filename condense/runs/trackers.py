"""Experiment trackers: a copy of the metrics for tools that draw them. `metrics.jsonl` is written without them."""

import importlib.util
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from condense.errors import ConfigError, unknown
from condense.files import write_atomic

logger = logging.getLogger("condense")


class Tracker(Protocol):
    """What is called before the first iteration, after each one (counted from 0), and at the end of a run."""

    def start(self, config: Mapping[str, object]) -> None: ...

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self, summary: Mapping[str, object]) -> None: ...


class Trackers:
    """Several trackers as one that cannot fail: an exception of a tracker costs one warning and that tracker."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._active = dict(trackers)

    def start(self, config: Mapping[str, object]) -> None:
        self._each(lambda tracker: tracker.start(dict(config)))

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.log(iteration, dict(metrics)))

    def finish(self, summary: Mapping[str, object]) -> None:
        self._each(lambda tracker: tracker.finish(dict(summary)))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._active.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._active[name]
                logger.warning("tracker %s failed and is off for the rest of this run: %r", name, error)


class WandbTracker:
    """Weights & Biases, into `run_path`/wandb; WANDB_MODE and the other variables of wandb hold.

    The run's id is drawn once and kept in `run_path`/wandb/id, so a resumed run goes on in the same curves.
    """

    def __init__(self, run_path: Path) -> None:
        self._path = run_path
        self._run: Any = None

    def start(self, config: Mapping[str, object]) -> None:
        import wandb

        id_path = self._path / "wandb" / "id"
        if not id_path.exists():
            id_path.parent.mkdir(exist_ok=True)
            write_atomic(id_path, secrets.token_hex(8).encode())
        self._run = wandb.init(
            project="condense",
            name=self._path.resolve().name,
            id=id_path.read_text(),
            resume="allow",
            dir=self._path,
            config=dict(config),
            settings=wandb.Settings(console="off"),  # stdout and stderr are left alone
        )

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=iteration)

    def finish(self, summary: Mapping[str, object]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()


class TensorBoardTracker:
    """TensorBoard event files in `run_path`/tensorboard; what a resumed run repeats has the same values."""

    def __init__(self, run_path: Path) -> None:
        self._path = run_path / "tensorboard"
        self._writer: Any = None

    def start(self, config: Mapping[str, object]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self._path)
        self._text("config", config)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)

    def finish(self, summary: Mapping[str, object]) -> None:
        self._text("summary", summary)
        self._writer.close()

    def _text(self, tag: str, content: Mapping[str, object]) -> None:
        self._writer.add_text(tag, f"```json\n{json.dumps(dict(content), indent=1, default=str)}\n```")


TRACKERS: Mapping[str, Callable[[Path], Tracker]] = {"wandb": WandbTracker, "tensorboard": TensorBoardTracker}
"""By name. A tracker's package and the extra that installs it are called the same."""


def create_trackers(names: Iterable[str], run_path: Path) -> Trackers:
    """The trackers of these names for the run in `run_path`; nothing is written before their `start`.

    Raises ConfigError for an unknown name and for a package that is not installed.
    """
    trackers = {}
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(unknown("tracker", name, TRACKERS))
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # None: a mere folder of that name, such as wandb leaves behind
            raise ConfigError(f"tracker {name!r} is not installed. Install it with: pip install 'condense-dd[{name}]'")
        trackers[name] = TRACKERS[name](run_path)
    return Trackers(trackers)
