"""The loop when a signal comes at the worst moment."""

from types import MappingProxyType

import pytest
import torch

from condense.loop import distillation_loop
from condense.runs import RunFolder, StopFlag, Stopped, create_trackers


class Late(StopFlag):
    """The signal comes just after the flag was read for the first time."""

    reads = 0

    def __getattribute__(self, name):
        if name == "requested":
            Late.reads += 1
            return 15 if Late.reads > 1 else None
        return super().__getattribute__(name)


class Counter:
    name = "counter"

    def init(self, _problem):
        return {"images": torch.zeros(1)}

    def step(self, state, _problem, _iteration):
        state["images"] += 1
        return {"loss": 0.0}


class Nowhere:
    device = torch.device("cpu")
    trained = MappingProxyType({})


def test_nothing_is_lost_by_a_signal_between_the_look_and_the_stop(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config({"seed": 0}, {"seed": "test"})
        settings = {"iterations": 9, "checkpoint_every": 100, "trackers": create_trackers((), tmp_path)}
        with pytest.raises(Stopped):
            distillation_loop(Counter(), Nowhere(), folder, stop=Late(), **settings)
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        found = folder.latest_checkpoint()
        assert found is not None and found.iteration == len(lines) == 2
