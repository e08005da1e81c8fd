"""What every registered condenser must show, whatever its method."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
from problems import SMALL, make_condenser, make_problem

from condense.config import Layer, find_row, resolve, rows
from condense.evaluation import TestSet, TrainingSet, evaluate, load_protocol
from condense.methods import METHODS
from condense.networks import canonical
from condense.resources import config_path
from condense.runs import RunFolder

ROOT = Path(__file__).parents[2]
ALL = sorted(METHODS)
LEARNING = sorted(name for name in METHODS if METHODS[name].Config.model_fields["iterations"].default)


def run(name, tmp_path, iterations, start=0, state=None, **problem):
    condenser = make_condenser(name)
    problem = make_problem(condenser, tmp_path, **problem)
    state = condenser.init(problem) if state is None else state
    losses = [condenser.step(state, problem, i)["loss"] for i in range(start, iterations)]
    return condenser, problem, state, losses


@pytest.mark.parametrize("name", ALL)
def test_a_method_is_complete(name):
    """Adding a method touches four files; here is the check that all four are there."""
    method = METHODS[name]
    assert (ROOT / "condense" / "methods" / f"{name}.py").is_file()
    assert (ROOT / "tests" / "methods" / f"test_{name}.py").is_file()
    tomllib.loads(config_path(name).read_text())
    assert re.search(rf"^\| `{name}` ", (ROOT / "docs" / "methods.md").read_text(), re.MULTILINE)
    assert re.search(r"eprint = \{\d{4}\.\d{5}\}|doi = \{", method.citation), "the paper, by arXiv id or DOI"
    assert method.summary and method.family


@pytest.mark.parametrize("name", ALL)
def test_config_round_trip(name):
    config = METHODS[name].Config(**SMALL.get(name, {}))
    assert type(config).model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="extra"):
        METHODS[name].Config(no_such_key=1)


@pytest.mark.parametrize("name", ALL)
def test_recipe_rows_resolve(name):
    """Every row of configs/<method>.toml is a valid configuration, and is found under its data set and ipc."""
    for row in rows(name):
        assert row.keys() <= {"recipe", "dataset", "ipc", "source", "values"}
        dataset = row.get("dataset", "npz:any.npz")
        assert find_row(name, dataset, row["ipc"], row["recipe"]) == row
        values = row["values"]
        if dataset in ("tiny_imagenet", "imagenet_subset"):  # from image folders, so not a name of a data set
            dataset = "digits"
        asked = {"method": name, "ipc": row["ipc"], "dataset": dataset, "recipe": "none"}
        resolved = resolve([Layer("test", asked), Layer("row", values)])
        assert {key: resolved.values()[key] for key in values} == values
        canonical(resolved.run.network, channels=3, size=32, classes=10)


@pytest.mark.parametrize("name", ALL)
def test_the_set_it_makes(name, tmp_path):
    condenser, _, state, _ = run(name, tmp_path, 1 if name in LEARNING else 0)
    made = condenser.distilled(state)
    assert made.images.shape == (6, 1, 8, 8) and made.images.isfinite().all()
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


@pytest.mark.parametrize("name", ALL)
def test_the_global_random_state_is_left_alone(name, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    run(name, tmp_path, 1 if name in LEARNING else 0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", LEARNING)
def test_loss_falls(name, tmp_path):
    *_, losses = run(name, tmp_path, 30)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize("name", LEARNING)
def test_resume_is_bit_identical(name, tmp_path):
    """A state that went through a checkpoint continues to the same bits: nothing that changes is outside it."""
    _, _, whole, losses = run(name, tmp_path, 6)
    _, _, half, _ = run(name, tmp_path, 3)
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config({"method": name}, {"method": "test"})
        folder.save_checkpoint(3, half)
        iteration, restored = folder.latest_checkpoint()
    _, _, resumed, rest = run(name, tmp_path, 6, iteration, restored)
    assert rest == losses[3:]
    assert resumed.keys() == whole.keys()
    for key in whole:
        assert torch.equal(resumed[key], whole[key]), key


@pytest.mark.parametrize("name", LEARNING)
def test_the_step_is_the_gradient_of_its_loss(name, tmp_path):
    """The first update of the images, divided by lr_img, against central differences of the loss in float64.

    The first update has no momentum yet. The loss at a perturbed set comes from the same iteration, so from the same
    draws.
    """
    condenser = make_condenser(name, lr_img=1.0, lr_lr=0.0)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    start = condenser.init(problem)

    def loss(images):
        state = {key: tensor.clone() for key, tensor in start.items()} | {"images": images.clone()}
        return condenser.step(state, problem, 0)["loss"]

    stepped = {key: tensor.clone() for key, tensor in start.items()}
    condenser.step(stepped, problem, 0)
    gradient = start["images"] - stepped["images"]
    draws = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(gradient.shape, generator=draws, dtype=torch.float64)
        h = 1e-5
        measured = (loss(start["images"] + h * direction) - loss(start["images"] - h * direction)) / (2 * h)
        exact = float((gradient * direction).sum())
        assert measured == pytest.approx(exact, rel=1e-5), name


@pytest.mark.parametrize("name", LEARNING)
def test_a_loss_that_is_not_finite_stops_before_the_update(name, tmp_path):
    condenser = make_condenser(name)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    state["images"][0, 0, 0, 0] = torch.nan
    before = {key: tensor.clone() for key, tensor in state.items()}
    with pytest.raises(ArithmeticError, match=rf"{name}, iteration 7: .*loss"):
        condenser.step(state, problem, 7)
    for key, tensor in before.items():
        assert torch.equal(state[key].nan_to_num(9), tensor.nan_to_num(9)), key


@pytest.mark.parametrize("name", LEARNING)
def test_the_set_is_at_least_as_good_as_where_it_started(name, tmp_path):
    condenser, problem, state, _ = run(name, tmp_path, 30, ipc=1)
    test = TestSet(problem.data.test.images, problem.data.test.labels, preprocess=problem.preprocessing)
    protocol = load_protocol("quick")

    def accuracy(made):
        training = TrainingSet(made.images, made.labels, lr=made.lr)
        return evaluate(
            training,
            test,
            problem.network.name,
            classes=3,
            protocol=protocol,
            dsa="none",
            seed=0,
            device=torch.device("cpu"),
            n=3,
        ).mean

    assert accuracy(condenser.distilled(state)) >= accuracy(condenser.distilled(condenser.init(problem))) - 0.01
