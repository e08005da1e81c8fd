import math

import pytest
import torch
from problems import (
    assert_same_bits,
    blobs,
    differing,
    make_condenser,
    make_problem,
    relative_error,
    states,
    trajectory_parts,
)
from torch.nn import functional as F

from condense.config import Layer, resolve, rows
from condense.errors import ConfigError
from condense.evaluation import load_protocol
from condense.experts import ExpertPlan
from condense.methods.ast import ASTConfig, balance, perturbed
from condense.methods.mtt import MTTConfig
from condense.networks import Network

MTT_EXPERTS = {
    "expert_lr": 0.05,
    "expert_momentum": 0.0,
    "expert_weight_decay": 0.0,
    "expert_decay": 1.0,
    "clip_loss": 1.0,
    "gradient_penalty": 0.0,
}
OFF = MTT_EXPERTS | {
    "init": "real",
    "weight_perturb": 0.0,
    "momentum_syn": 0.0,
    "balance_loss": False,
    "intermediate": "none",
}
LONG = {"max_start_epoch": 5, "expert_epochs": 3, "syn_steps": 7}


def test_with_every_part_off_it_is_mtt_bit_for_bit(tmp_path):
    mtt = make_condenser("mtt", expert_epochs=2)
    ast = make_condenser("ast", **OFF, syn_steps=3, lr_img=3.0, lr_lr=1e-4, lr_teacher=0.03)
    runs = [states(condenser, make_problem(condenser, tmp_path / condenser.name)) for condenser in (mtt, ast)]
    for one, other in zip(*runs, strict=True):
        assert_same_bits(one, other)
    assert ast.config.expert_plan("flip") == mtt.config.expert_plan("flip")


SWITCHES = [
    ({"clip_loss": 0.5}, {"experts"}),
    ({"gradient_penalty": 2.0}, {"experts"}),
    ({"expert_momentum": 0.9}, {"experts"}),
    ({"expert_weight_decay": 1e-3}, {"experts"}),
    ({"expert_decay": 0.6}, {"experts"}),
    ({"init": "representative"}, {"images"}),
    ({"weight_perturb": 1.0}, {"start", "outer loss"}),
    ({"momentum_syn": 0.9}, {"momentum"}),
    ({"balance_loss": True}, {"lr"}),
    ({"intermediate": "agg"}, {"waypoints"}),
    ({"intermediate": "adaptive"}, {"waypoints"}),
]


@pytest.mark.parametrize(("switch", "own"), SWITCHES, ids=[str(switch) for switch, _ in SWITCHES])
def test_each_part_changes_only_its_own_term(switch, own, tmp_path):
    plain, switched = make_condenser("ast", **OFF, **LONG), make_condenser("ast", **OFF | switch, **LONG)
    problem = make_problem(plain, tmp_path)
    assert differing(trajectory_parts(plain, problem), trajectory_parts(switched, problem)) == own


def test_one_iteration_of_all_parts_against_the_papers_equations(tmp_path):
    """Written out with a full graph: perturbed start, momentum, factor on the inner loss, three losses."""
    condenser = make_condenser("ast", **LONG, weight_perturb=1.0, momentum_syn=0.9, lr_img=1.0, intermediate="agg")
    c, problem = condenser.config, make_problem(condenser, tmp_path, dtype=torch.float64, dsa="crop_rotate")
    state, iteration = condenser.init(problem), 4
    (segment,) = condenser.segments(problem, iteration)
    unperturbed = problem.experts.snapshot(segment.expert, segment.epoch)
    start = perturbed(problem.network, unperturbed, 1.0, problem.rng("perturb", iteration))
    images = state["images"].clone().requires_grad_()
    lr = state["log_lr"].exp().requires_grad_()
    theta, b = start.clone().requires_grad_(), 0.0
    t, m, losses = segment.epoch, 2, []
    for i, step in enumerate(condenser.inner_steps(6, problem, problem.rng("inner", iteration)), 1):
        logits = problem.network.logits(theta, step.augment(images[step.index]))
        loss = F.cross_entropy(logits, state["labels"][step.index])
        loss = loss * math.log(t - m + 8, 5) if t >= m else loss / math.log(m - t + 8, 5)
        (g,) = torch.autograd.grad(loss, theta, create_graph=True)
        b = 0.9 * b + g
        theta = theta - lr * b
        for j, steps in ((1, 2), (2, 4), (3, 7)):
            if i == steps:
                target = problem.experts.snapshot(segment.expert, t + j)
                losses.append((theta - target).square().sum() / (start - target).square().sum())
    expected, by_lr = torch.autograd.grad(sum(losses), (images, lr))
    before = {key: tensor.clone() for key, tensor in state.items()}
    assert condenser.step(state, problem, iteration)["loss"] == pytest.approx(float(sum(losses).detach()), rel=1e-10)
    assert relative_error(before["images"] - state["images"], expected) < 1e-9
    assert float(state["log_lr.momentum"]) == pytest.approx(float(by_lr) * c.lr_teacher, rel=1e-8)


# its parts


def test_the_balanced_loss_grows_with_the_start_epoch_by_the_published_numbers():
    factors = [balance(t, 20) for t in range(20)]
    assert factors == sorted(factors)
    assert factors[10] == pytest.approx(math.log(8) / math.log(5)) == pytest.approx(1.292, abs=1e-3)
    assert factors[9] == pytest.approx(math.log(5) / math.log(9)) == pytest.approx(0.732, abs=1e-3)
    assert factors[0] == pytest.approx(math.log(5) / math.log(18))
    assert factors[19] == pytest.approx(math.log(17) / math.log(5))


def test_the_perturbation_is_of_convolutions_alone_and_in_proportion_to_their_weights():
    network = Network("convnet:width=16,depth=2", channels=3, size=16, classes=5, dtype=torch.float64)
    theta = network.init(0, "test")
    moved = perturbed(network, theta, 0.5, torch.Generator().manual_seed(3))
    draws = torch.Generator().manual_seed(3)
    for name, part in network.split(moved).items():
        W = network.split(theta)[name]
        if W.ndim != 4:
            assert torch.equal(part, W)
            continue
        d = torch.randn(W.shape, generator=draws).double()
        torch.testing.assert_close(part, W * (1 + 0.5 * d / d.square().sum().sqrt()))
        relative = float((part - W).norm() / W.norm())
        assert 0.7 < relative * W.numel() ** 0.5 / 0.5 < 1.3, "about alpha / sqrt(number of weights)"


def test_each_segment_has_a_perturbation_of_its_own(tmp_path):
    condenser = make_condenser("ast", experts_per_step=2, num_experts=1, max_start_epoch=1)
    problem = make_problem(condenser, tmp_path)
    starts = [segment.start for iteration in (0, 1) for segment in condenser.segments(problem, iteration)]
    assert not any(torch.equal(a, b) for k, a in enumerate(starts) for b in starts[:k])
    again = [segment.start for iteration in (0, 1) for segment in condenser.segments(problem, iteration)]
    assert all(torch.equal(a, b) for a, b in zip(starts, again, strict=True))


@pytest.mark.parametrize(("kind", "weights"), [("agg", [1.0, 1.0]), ("adaptive", [1 / 3, 2 / 3])])
def test_waypoints_are_the_experts_epochs_in_even_steps(kind, weights, tmp_path):
    condenser = make_condenser("ast", **LONG, intermediate=kind)
    problem = make_problem(condenser, tmp_path)
    (segment,) = condenser.segments(problem, 0)
    waypoints = condenser.waypoints(problem, segment)
    assert list(waypoints) == [2, 4]  # 7 // 3 and twice that
    for j, (loss, weight) in enumerate(zip(waypoints.values(), weights, strict=True), 1):
        there = problem.experts.snapshot(segment.expert, segment.epoch + j)
        assert loss(there) == 0
        assert float(loss(segment.start)) == pytest.approx(weight)


def test_with_one_epoch_there_is_nothing_between(tmp_path):
    condenser = make_condenser("ast", expert_epochs=1)
    problem = make_problem(condenser, tmp_path)
    assert condenser.waypoints(problem, condenser.segments(problem, 0)[0]) == {}


def test_fewer_steps_than_epochs_are_refused():
    values = {"method": "ast", "recipe": "none", "syn_steps": 2, "expert_epochs": 3}
    with pytest.raises(ConfigError, match=r"intermediate = 'agg': needs a step for each epoch, but syn_steps = 2"):
        resolve([Layer("--set", values)])
    assert resolve([Layer("--set", values | {"intermediate": "none"})]).method.syn_steps == 2


# the start


@pytest.mark.parametrize("ipc", [1, 3, 12])
def test_representative_images_are_different_ones_for_any_ipc(ipc, tmp_path):
    """The released code has ten clusters, and for fewer images of a class none at all."""
    condenser = make_condenser("ast")
    problem = make_problem(condenser, tmp_path, ipc=ipc)
    real = problem.inputs[torch.arange(len(problem.inputs))]
    chosen = [int((real - image).abs().flatten(1).sum(1).argmin()) for image in condenser.init(problem)["images"]]
    assert len(set(chosen)) == 3 * ipc
    assert problem.data.train.labels[chosen].tolist() == [c for c in range(3) for _ in range(ipc)]


def test_they_spread_over_an_experts_logits(tmp_path):
    """The class's images lie nearer to one of its four than to one of four that are drawn at random."""
    condenser, random = make_condenser("ast"), make_condenser("ast", init="real")
    problem = make_problem(condenser, tmp_path, ipc=4)
    expert = int(torch.randint(2, (), generator=problem.rng("init.images")))
    theta = problem.experts.snapshot(expert, condenser.config.last_target)
    spread = []
    for each in (condenser, random):
        chosen = problem.network.logits(theta, each.init(problem)["images"]).view(3, 4, 3)
        total = 0.0
        for members, of_class in zip(problem.members, chosen, strict=True):
            distances = torch.cdist(problem.network.logits(theta, problem.inputs[members]), of_class)
            total += float(distances.min(1).values.square().sum())
        spread.append(total)
    assert spread[0] < 0.8 * spread[1]


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("kind", ["representative", "real", "noise", "mean", "kmeans"])
def test_every_start_can_be_had(kind, factor, tmp_path):
    condenser = make_condenser("ast", init=kind, factor=factor)
    state = condenser.init(make_problem(condenser, tmp_path))
    assert state["images"].shape == (6, 1, 8, 8) and state["images"].isfinite().all()


def test_a_class_with_fewer_images_than_are_wanted_is_refused(tmp_path):
    condenser = make_condenser("ast", factor=3)
    problem = make_problem(condenser, tmp_path, data=blobs(per_class=10))
    with pytest.raises(ConfigError, match=r"init = 'representative': 18 .* class 0 has 10"):
        condenser.init(problem)


# experts


def test_the_published_plan_of_its_experts():
    plan = ASTConfig(max_start_epoch=20, expert_epochs=2).expert_plan("flip")
    assert plan == ExpertPlan(
        epochs=21,
        lr=0.003,
        batch=256,
        momentum=0.9,
        weight_decay=1e-3,
        decay_epochs=(27,),
        decay_factor=0.6,
        clip_loss=0.5,
        clip_epochs=10,
        gradient_penalty=2.0,
        dsa="flip",
    )
    assert ASTConfig(**MTT_EXPERTS).expert_plan("none") == MTTConfig(expert_lr=0.05).expert_plan("none")


def test_it_resumes_to_the_same_bits(tmp_path):
    condenser = make_condenser("ast", experts_per_step=2, batch_syn=4)
    problem = make_problem(condenser, tmp_path)
    *_, half, _, whole = states(condenser, problem)
    for iteration in (2, 3):
        condenser.step(half, problem, iteration)
    assert all(torch.equal(half[key], whole[key]) for key in whole)


# what goes wrong in the released code


def test_images_are_not_normalised_again_at_every_access(tmp_path):
    """Its Tiny-ImageNet changes an image each time it is read. Experts, the start and matching leave the data alone."""
    condenser = make_condenser("ast")
    data = blobs()
    kept = data.train.images.clone()
    problem = make_problem(condenser, tmp_path, data=data)
    rows = torch.arange(len(problem.inputs))
    first = problem.inputs[rows].clone()
    list(states(condenser, problem, 2))
    assert torch.equal(data.train.images, kept)
    assert torch.equal(problem.inputs[rows], first) and torch.equal(problem.inputs[rows], first)


def test_no_row_is_evaluated_on_one_network():
    """Nor by its best epoch on the test set, which is read once for each network (tests/test_honesty.py)."""
    published = [row["values"] for row in rows("ast") if row["recipe"] == "published"]
    assert len(published) == 5 and all(load_protocol(values["protocol"]).networks >= 5 for values in published)
