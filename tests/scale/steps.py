"""Steps of methods on the small problem, by one process and, as a program, by several."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from problems import make_condenser, make_problem

from condense.errors import RankError
from condense.methods import Problem
from condense.scale.ranks import LONE, Lone, join
from condense.synthetic import State

CASES: dict[str, dict[str, Any]] = {
    "mtt": {"experts_per_step": 3},
    "dm": {},
    "dc": {},
    "datadam": {},
    "sre2l": {"init": "real"},
    "datm": {"experts_per_step": 2, "threshold": None},
    "idc": {},
    "idm": {},
    "ncfm": {},
    "infer": {},
}
"""Three segments or classes, so that two processes have one and two; the last ones keep more than images in a state."""
RUNS = [(name, "fp64") for name in CASES] + [(name, "fp32") for name in list(CASES)[:5]]
DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


def prepared(name: str, dtype: str, folder: Path, work: Lone) -> tuple[Any, Problem]:
    """The problem of a case; what is trained for it is in the folder, if it was there before."""
    condenser = make_condenser(name, **CASES[name])
    problem = make_problem(condenser, folder / f"{name}-{dtype}", dtype=DTYPES[dtype])
    return condenser, replace(problem, work=work)


def gradients(state: State) -> dict[str, Tensor]:
    """After the first step: of all that is learned, up to a factor."""
    return {name: tensor.clone() for name, tensor in state.items() if name.endswith(".momentum")}


def first_step(name: str, dtype: str, folder: Path, work: Lone = LONE) -> dict[str, Tensor]:
    """The gradients, and the loss."""
    condenser, problem = prepared(name, dtype, folder, work)
    state = condenser.init(problem)
    loss = condenser.step(state, problem, 0)["loss"]
    found = gradients(state) | {"loss": torch.tensor(loss, dtype=torch.float64)}
    for iteration in (1, 2):
        condenser.step(state, problem, iteration)
    work.agree(3, state)
    return found


def main(folder: Path) -> None:
    with join() as ranks:
        for name, dtype in RUNS:
            found = first_step(name, dtype, folder, ranks)
            if ranks.rank == 0:
                save_file(found, folder / f"{name}-{dtype}.safetensors")
        try:
            ranks.agree(3, {"images": torch.tensor([0.0, 1.0 + 1e-7 * ranks.rank])})
        except RankError as error:
            (folder / f"disagreement-{ranks.rank}").write_text(f"{error.speaker} {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
