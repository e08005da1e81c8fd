"""What every registered condenser must show, whatever its method."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import get_args

import pytest
import torch
from problems import SMALL, accuracies, blobs, make_condenser, make_problem, relative_error
from torch import nn

from condense.config import Layer, find_row, resolve, rows
from condense.evaluation import load_protocol
from condense.methods import METHODS
from condense.methods.decoupled import Decoupled
from condense.methods.learned import Learned
from condense.methods.matching import Matching
from condense.methods.recover import Recover
from condense.networks import Network, canonical
from condense.resources import config_path
from condense.runs import RunFolder
from condense.synthetic.initial import Initial

ROOT = Path(__file__).parents[2]
ALL = sorted(METHODS)
LEARNING = sorted(name for name in METHODS if METHODS[name].Config.model_fields["iterations"].default)
WITH_VIEWS = [name for name in LEARNING if issubclass(METHODS[name], Learned)]
DECOUPLED = [name for name in ALL if issubclass(METHODS[name], Decoupled)]
RECOVERING = [name for name in LEARNING if issubclass(METHODS[name], Recover)]
MATCHING = [name for name in LEARNING if issubclass(METHODS[name], Matching)]
BATCH_NORM = "convnet:width=4,depth=2,norm=batch"
LEAST_IPC = {"infer": 2}
"""Where it is more than 1."""
STILL = {"lr_lr": 0.0}
"""What keeps all but the images where it is, for the methods that have the key."""


def still(name):
    return {key: value for key, value in STILL.items() if key in METHODS[name].Config.model_fields}


def copied(state):
    return {key: tensor.clone() for key, tensor in state.items()}


def first_step(condenser, problem, start):
    """The loss of iteration 0, and how it moves the images."""
    state = copied(start)
    loss = condenser.step(state, problem, 0)["loss"]
    return loss, start["images"] - state["images"]


def by_image(state, change):
    """`change` applied to every tensor that has a row for each image."""
    n = len(state["images"])
    return {key: change(tensor) if tensor.shape[:1] == (n,) else tensor.clone() for key, tensor in state.items()}


def unaugmented(condenser, monkeypatch, tmp_path, **problem):
    """The small problem in float64 with no augmentation, of the run or of the method's own."""
    if isinstance(condenser, Matching):
        monkeypatch.setattr(condenser, "augmentations", lambda problem: ())  # noqa: ARG005
    return make_problem(condenser, tmp_path, dtype=torch.float64, dsa="none", **problem)


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
        assert not resolved.method.misfits(row["ipc"], classes=10, validation=1)
        canonical(resolved.run.network, channels=3, size=32, classes=10)


def assert_set(made, *, ipc, classes, shape):
    """Of ipc images of each class; with compensators, which are of the budget, of fewer, that make more to train on."""
    decoded = made.decoded()
    assert made.images.shape[1:] == shape and made.images.isfinite().all()
    if made.compensators is None:
        assert len(made) == len(decoded) == ipc * classes
    else:
        assert made.compensators.shape[2:] == shape and made.compensators.isfinite().all()
        assert len(made) + made.compensators.shape[:2].numel() <= ipc * classes < len(decoded)
    assert_labels(decoded.labels, [c for c in range(classes) for _ in range(len(decoded) // classes)], classes)


def assert_labels(labels, expected, classes):
    """Hard labels are those expected, soft ones probabilities over the classes."""
    if labels.ndim == 1:
        assert labels.tolist() == expected
    else:
        assert labels.shape == (len(expected), classes) and labels.dtype == torch.float32
        assert (labels >= 0).all() and torch.allclose(labels.sum(1), torch.ones(len(expected)))


@pytest.mark.parametrize("name", ALL)
def test_the_set_it_makes(name, tmp_path):
    condenser, problem, state, _ = run(name, tmp_path, 1 if name in LEARNING else 0)
    assert_set(condenser.distilled(state, problem), ipc=2, classes=3, shape=(1, 8, 8))
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


@pytest.mark.parametrize("name", ALL)
def test_any_number_of_classes_channels_and_pixels(name, tmp_path):
    data = blobs(per_class=12, size=11, classes=5, channels=2)  # fewer images of a class than some batches want
    condenser, problem, state, _ = run(name, tmp_path, 2 if name in LEARNING else 0, data=data, ipc=3)
    assert_set(condenser.distilled(state, problem), ipc=3, classes=5, shape=(2, 11, 11))


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
        iteration, restored, _ = folder.latest_checkpoint()
    _, _, resumed, rest = run(name, tmp_path, 6, iteration, restored)
    assert rest == losses[3:]
    assert resumed.keys() == whole.keys()
    for key in whole:
        assert torch.equal(resumed[key], whole[key]), key


def assert_steps_down_the_gradient(condenser, problem, directions=1):
    """The first update of the images at lr_img = 1 against central differences of the loss in float64.

    The first update has no momentum yet. The loss at a perturbed set comes from the same iteration, so from the same
    draws.
    """
    start = condenser.init(problem)

    def loss(images):
        return condenser.step(copied(start) | {"images": images.clone()}, problem, 0)["loss"]

    _, gradient = first_step(condenser, problem, start)
    draws, h = torch.Generator().manual_seed(0), 1e-6
    for _ in range(directions):
        direction = torch.randn(gradient.shape, generator=draws, dtype=torch.float64)
        measured = (loss(start["images"] + h * direction) - loss(start["images"] - h * direction)) / (2 * h)
        assert measured == pytest.approx(float((gradient * direction).sum()), rel=1e-5), condenser.name


@pytest.mark.parametrize("name", [name for name in LEARNING if name not in RECOVERING])
def test_the_step_is_the_gradient_of_its_loss(name, tmp_path):
    condenser = make_condenser(name, lr_img=1.0, **still(name))
    assert_steps_down_the_gradient(condenser, make_problem(condenser, tmp_path, dtype=torch.float64), directions=3)


@pytest.mark.parametrize("name", RECOVERING)
def test_what_is_recovered_descends_the_gradient_of_its_loss(name, tmp_path):
    """Of what is learned, by central differences in float64; its step, by Adam, has a test of its own."""
    condenser = make_condenser(name)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    state, draws, h = condenser.init(problem), torch.Generator().manual_seed(0), 1e-6
    blocks, start = len(condenser.blocks(problem)), state[condenser.learned].clone()
    for iteration in range(3):
        _, gradient = condenser.gradient(state, problem, iteration)
        direction = torch.randn(start.shape, generator=draws, dtype=torch.float64)
        ends = [
            condenser.gradient(state | {condenser.learned: start + h_ * direction}, problem, iteration)[0]
            for h_ in (h, -h)
        ]
        measured = float(ends[0] - ends[1]) / (2 * h) * blocks
        assert measured == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


VIEWS = {
    "mirror images": (2, {"flip": True}),
    "mosaics": (2, {"factor": 2}),
    "one mosaic": (1, {"factor": 2}),
    "mirrored mosaics and their average": (2, {"factor": 2, "flip": True, "ema_decay": 0.9}),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", WITH_VIEWS)
def test_the_step_is_the_gradient_of_its_loss_through_the_views(name, view, tmp_path):
    ipc, values = VIEWS[view]
    condenser = make_condenser(name, lr_img=1.0, **still(name), **values)
    assert_steps_down_the_gradient(condenser, make_problem(condenser, tmp_path, dtype=torch.float64, ipc=ipc))


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_a_mirrored_set_has_the_same_loss(name, tmp_path, monkeypatch):
    """FYI: loss(S) = loss(S mirrored), and the gradient of the mirrored set is the mirrored gradient."""
    condenser = make_condenser(name, lr_img=1.0, flip=True, **still(name))
    problem = unaugmented(condenser, monkeypatch, tmp_path)
    start = condenser.init(problem)
    loss, gradient = first_step(condenser, problem, start)
    mirrored = copied(start) | {"images": start["images"].flip(3)}
    mirrored_loss, mirrored_gradient = first_step(condenser, problem, mirrored)
    assert not torch.equal(start["images"], mirrored["images"])
    assert mirrored_loss == pytest.approx(loss, rel=1e-10)
    assert relative_error(mirrored_gradient.flip(3), gradient) < 1e-9


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_the_gradient_of_a_mirrored_set_is_that_of_both_halves(name, tmp_path, monkeypatch):
    """FYI: each image and its mirror image side by side, as a set of twice the size that is given by hand."""
    condenser = make_condenser(name, lr_img=1.0, flip=True, **still(name))
    problem = unaugmented(condenser, monkeypatch, tmp_path)
    start = condenser.init(problem)
    loss, gradient = first_step(condenser, problem, start)

    by_hand = make_condenser(name, lr_img=1.0, flip=False, **still(name))
    twice = unaugmented(by_hand, monkeypatch, tmp_path, ipc=2 * problem.ipc)
    doubled = by_image(start, lambda tensor: tensor.repeat_interleave(2, 0))
    for row in range(1, len(doubled["images"]), 2):
        doubled["images"][row] = doubled["images"][row].flip(2)
    loss_by_hand, rows = first_step(by_hand, twice, doubled)
    assert loss_by_hand == pytest.approx(loss, rel=1e-10)
    assert relative_error(rows[0::2] + rows[1::2].flip(3), gradient) < 1e-9


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_the_average_follows_its_definition_and_feeds_nothing_back(name, tmp_path):
    d = 0.6
    averaging, without = make_condenser(name, ema_decay=d), make_condenser(name, ema_decay=0.0)
    problem = make_problem(averaging, tmp_path)
    state, plain = averaging.init(problem), without.init(problem)
    average = state["images"].clone()
    for iteration in range(2):
        averaging.step(state, problem, iteration)
        without.step(plain, problem, iteration)
        average = d * average + (1 - d) * state["images"]
    assert state.keys() == plain.keys() | {"ema"}
    assert all(torch.equal(state[key], plain[key]) for key in plain)
    torch.testing.assert_close(state["ema"], average)
    assert torch.equal(averaging.distilled(state, problem).images, state["ema"])
    assert torch.equal(without.distilled(plain, problem).images, plain["images"])


@pytest.mark.parametrize("network", ["convnet:width=4,depth=2", BATCH_NORM])
@pytest.mark.parametrize("name", MATCHING)
def test_classes_one_at_a_time_or_all_together(name, network, tmp_path):
    """Two iterations, so that what follows an update is the same too. Batch norm keeps to its class in both."""
    sets = []
    for class_batch in (None, 1, 2):
        condenser = make_condenser(name, class_batch=class_batch)
        problem = make_problem(condenser, tmp_path, dtype=torch.float64, network=network)
        state = condenser.init(problem)
        for iteration in range(2):
            condenser.step(state, problem, iteration)
        assert all(relative_error(state["images"], other) < 1e-12 for other in sets)
        sets.append(state["images"])


@pytest.mark.parametrize("name", [name for name in ALL if name not in DECOUPLED])
def test_two_images_at_a_time_or_all_together(name, tmp_path, monkeypatch):
    """Where the set starts and the first update, with what follows it; and no module of the network meets a third."""
    condenser, call, met = make_condenser(name), nn.Module.__call__, []

    def watched(module, *inputs):
        met.extend(len(given) for given in inputs if given.ndim == 4)
        return call(module, *inputs)

    monkeypatch.setattr(nn.Module, "__call__", watched)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, ipc=3)
    on = {"channels": 1, "size": 8, "classes": 3, "dtype": torch.float64}
    states = []
    for micro_batch in (None, 2):
        met.clear()
        split = replace(problem, network=Network(problem.network.name, micro_batch=micro_batch, **on))
        state = condenser.init(split)
        if name in LEARNING:
            condenser.step(state, split, 0)
        states.append(state)
        assert name == "random" or (max(met) <= 2) == (micro_batch == 2)
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("network", ["convnet:width=4,depth=2", BATCH_NORM])
@pytest.mark.parametrize("name", MATCHING)
def test_the_order_of_the_images_of_a_class_does_not_count(name, network, tmp_path):
    condenser = make_condenser(name)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, ipc=3, network=network)
    start, order = condenser.init(problem), torch.tensor([1, 2, 0, 3, 5, 4, 8, 7, 6])
    loss, move = first_step(condenser, problem, start)
    other_loss, other_move = first_step(condenser, problem, by_image(start, lambda tensor: tensor[order]))
    assert other_loss == pytest.approx(loss, rel=1e-12)
    assert relative_error(other_move, move[order]) < 1e-12


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", get_args(Initial))
def test_every_start_can_be_had_with_every_factor(kind, factor, tmp_path):
    condenser = make_condenser("dm", init=kind, factor=factor)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    assert state["images"].shape == (6, 1, 8, 8) and state["images"].isfinite().all()
    condenser.step(state, problem, 0)
    made = condenser.distilled(state, problem)
    assert made.factor == factor and made.images.shape == (6, 1, 8, 8) and made.images.isfinite().all()
    assert made.decoded().images.shape == (6 * factor**2, 1, 8, 8)
    assert made.decoded().labels.bincount().tolist() == [2 * factor**2] * 3


@pytest.mark.parametrize("name", LEARNING)
def test_a_loss_that_is_not_finite_stops_before_the_update(name, tmp_path):
    condenser = make_condenser(name)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    state["images"][0] = torch.nan
    before = {key: tensor.clone() for key, tensor in state.items()}
    with pytest.raises(ArithmeticError, match=rf"{name}, iteration 7: .*loss"):
        condenser.step(state, problem, 7)
    for key, tensor in before.items():
        assert torch.equal(state[key].nan_to_num(9), tensor.nan_to_num(9)), key


@pytest.mark.parametrize("name", LEARNING)
def test_the_set_is_at_least_as_good_as_where_it_started(name, tmp_path):
    condenser, problem, state, _ = run(name, tmp_path, 30, ipc=LEAST_IPC.get(name, 1))
    protocol = replace(load_protocol("quick"), epochs=80, lr=0.03)

    def accuracy(made):
        return fmean(accuracies(made, problem, problem.network.name, protocol))

    made, begun = (condenser.distilled(held, problem) for held in (state, condenser.init(problem)))
    assert accuracy(made) >= accuracy(begun) - 0.01
