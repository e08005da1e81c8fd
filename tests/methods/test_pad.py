import numpy as np
import pytest
import torch
from problems import assert_same_bits, differing, make_condenser, make_problem, states, trajectory_parts

from condense.config import Layer, resolve, rows
from condense.errors import ConfigError
from condense.evaluation import load_protocol
from condense.experts import Curriculum
from condense.methods.pad import PADConfig

ALL_IMAGES = {"init_ratio": 1.0, "rm_easy_ratio_first": 0.0, "rm_easy_ratio_second": 0.0}
OFF = ALL_IMAGES | {"depth_ratio": 0.0}


def test_with_every_ratio_off_it_is_datm_bit_for_bit(tmp_path):
    runs = []
    for name, values in (("datm", {}), ("pad", OFF)):
        condenser = make_condenser(name, **values)
        runs.append(states(condenser, make_problem(condenser, tmp_path / name), 5))
    for one, other in zip(*runs, strict=True):
        assert_same_bits(one, other)


SWITCHES = [
    ({"depth_ratio": 0.3}, {"outer loss"}),
    ({"loss_ratio": 0.3}, {"outer loss"}),
    ({"init_ratio": 0.5}, {"experts"}),
    ({"rm_easy_ratio_first": 0.1}, {"experts"}),
]


@pytest.mark.parametrize(("switch", "own"), SWITCHES, ids=[str(switch) for switch, _ in SWITCHES])
def test_each_switch_changes_only_its_own_part(switch, own, tmp_path):
    plain, switched = make_condenser("pad", **OFF), make_condenser("pad", **OFF | switch)
    problem = make_problem(plain, tmp_path)
    assert differing(trajectory_parts(plain, problem), trajectory_parts(switched, problem)) == own


# what is matched


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.25, 0.5, 0.999])
def test_the_shallow_parameters_are_left_out(ratio, tmp_path):
    """Number by number, from the input of the network on; what is left out has no derivative."""
    condenser = make_condenser("pad", depth_ratio=ratio)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    (segment,) = condenser.segments(problem, 0)
    end = (segment.start + 0.1).requires_grad_()
    loss = condenser.outer_loss(problem, segment)(end)
    parts = [problem.network.split(theta).values() for theta in (end.detach(), segment.start, segment.target)]
    numbers = [[float(x) for tensor in part for x in tensor.flatten()] for part in parts]  # first layer first
    shallow = int(ratio * len(end))
    above = sum((e - t) ** 2 for e, _, t in list(zip(*numbers, strict=True))[shallow:])
    below = sum((s - t) ** 2 for _, s, t in list(zip(*numbers, strict=True))[shallow:])
    assert float(loss.detach()) == pytest.approx(above / below, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, end)
    assert gradient[:shallow].count_nonzero() == 0 and gradient[shallow:].count_nonzero() == len(end) - shallow


@pytest.mark.parametrize("depth", [0.0, 0.5])
def test_the_filter_of_the_released_code(depth, tmp_path):
    """Among the deep parameters, by sorting in numpy."""
    condenser = make_condenser("pad", depth_ratio=depth, loss_ratio=0.4)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    (segment,) = condenser.segments(problem, 0)
    end = segment.start + 0.01 * torch.randn(segment.start.shape, generator=problem.rng("noise"), dtype=torch.float64)
    deep = int(depth * len(end))
    e, s, t = (theta[deep:].numpy() for theta in (end, segment.start, segment.target))
    order = np.argsort((e - t) ** 2)[int(0.4 * len(e)) :]
    expected = ((e - t) ** 2)[order].sum() / ((s - t) ** 2)[order].sum()
    assert float(condenser.outer_loss(problem, segment)(end)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "options", [{"loss_ratio": 0.25}, {"depth_ratio": 0.0, "loss_ratio": 0.5}, {"depth_ratio": 0.9}]
)
def test_every_option_runs(options, tmp_path):
    """The released code reads an option that it does not define, and ends there."""
    condenser = make_condenser("pad", **options)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    for iteration in range(3):
        condenser.step(state, problem, iteration)
    assert state["images"].isfinite().all()


# experts


def test_experts_follow_the_curriculum_with_gsam():
    plan = PADConfig(max_start_epoch=70, expert_epochs=2, score_networks=3).expert_plan("flip")
    assert plan.curriculum == Curriculum(score_networks=3)
    assert (plan.rho, plan.alpha, plan.epochs) == (0.01, 0.3, 71)
    assert PADConfig(**ALL_IMAGES).expert_plan("flip").curriculum is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"add_end_epoch": 50}, "rm_epoch_first = 40: must be at least add_end_epoch = 50"),
        ({"rm_epoch_first": 19}, "rm_epoch_first = 19: must be at least add_end_epoch = 20"),
        ({"rm_epoch_second": 39}, "rm_epoch_second = 39: must be at least rm_epoch_first = 40"),
    ],
)
def test_epochs_of_the_curriculum_that_are_out_of_order_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        resolve([Layer("--set", {"method": "pad", "recipe": "none"} | wrong)])


def test_the_curriculum_is_that_of_its_keys():
    config = PADConfig(init_ratio=0.5, rm_epoch_second=70, score_networks=3)
    assert config.curriculum == Curriculum(init_ratio=0.5, rm_epoch_second=70, score_networks=3)
    assert type(config.curriculum) is Curriculum


def test_the_curriculum_changes_the_experts(tmp_path):
    ends = []
    for number, values in enumerate((OFF, OFF | {"init_ratio": 0.4})):
        problem = make_problem(make_condenser("pad", **values), tmp_path / str(number))
        ends.append([problem.experts.snapshot(0, epoch) for epoch in (0, 2)])
    assert torch.equal(ends[0][0], ends[1][0]) and not torch.equal(ends[0][1], ends[1][1])


def test_published_rows_have_the_depth_of_the_paper():
    published = {(row["dataset"], row["ipc"]): row["values"] for row in rows("pad") if row["recipe"] == "published"}
    depth = {key: values.get("depth_ratio", 0.25) for key, values in published.items()}
    assert depth == {
        ("cifar10", 1): 0.0,
        ("cifar10", 10): 0.25,
        ("cifar10", 50): 0.25,
        ("cifar10", 500): 0.5,
        ("cifar10", 1000): 0.75,
        ("cifar100", 1): 0.0,
        ("cifar100", 10): 0.25,
        ("cifar100", 50): 0.5,
        ("cifar100", 100): 0.5,
        ("tiny_imagenet", 1): 0.0,
        ("tiny_imagenet", 10): 0.25,
        ("tiny_imagenet", 50): 0.5,
    }
    assert all(load_protocol(values["protocol"]).networks >= 5 for values in published.values())
