from dataclasses import replace
from types import SimpleNamespace

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

from condense.config import Layer, resolve, rows
from condense.errors import ConfigError
from condense.evaluation import load_protocol
from condense.experts import ExpertPlan
from condense.methods.datm import DATMConfig

PLAIN = {"soft_labels": False, "threshold": None, "init": "real"}
"""What leaves nothing of DATM but the range of its start epochs, which is the full one by default."""


@pytest.mark.parametrize(("name", "values"), [("mtt", {}), ("ftd", {"rho": 0.01, "ema_decay": 0.9})])
def test_full_range_hard_labels_and_no_threshold_are_mtt_or_ftd_bit_for_bit(name, values, tmp_path):
    gsam = {"rho": 0.0} | values | ({"alpha": 0.7} if values else {})
    base = make_condenser(name, **values, **({"alpha": 0.7} if values else {}))
    datm = make_condenser("datm", **PLAIN, **gsam)
    runs = [states(each, make_problem(each, tmp_path / each.name)) for each in (base, datm)]
    for one, other in zip(*runs, strict=True):
        assert_same_bits(one, other)


def test_the_plan_of_its_experts():
    config = DATMConfig(max_start_epoch=20, expert_epochs=2)
    gsam = {"rho": 0.01, "alpha": 0.3, "adaptive": True, "dsa": "flip"}
    assert config.expert_plan("flip") == ExpertPlan(epochs=21, lr=0.01, batch=256, momentum=0.0, **gsam)
    longer = DATMConfig(max_start_epoch=20, expert_epochs=2, label_epoch=100)
    assert longer.expert_plan("flip") == ExpertPlan(epochs=100, lr=0.01, batch=256, momentum=0.0, **gsam)
    assert (config.labelled_at, longer.labelled_at) == (21, 100)


def test_experts_are_no_longer_than_they_are_read(tmp_path):
    """By a store that notes the epochs."""
    reads = {}
    for name, switch in (("none", {}), ("labels", {"soft_labels": True}), ("start", {"init": "correct"})):
        condenser = make_condenser("datm", **PLAIN | switch, label_epoch=9)
        problem = make_problem(condenser, tmp_path / name)
        epochs, snapshot = set(), problem.experts.snapshot
        counted = SimpleNamespace(snapshot=lambda k, e, seen=epochs, held=snapshot: seen.add(e) or held(k, e))
        list(states(condenser, replace(problem, experts=counted), 20))
        assert max(epochs) == condenser.config.expert_plan("none").epochs
        reads[name] = max(epochs)
    assert reads == {"none": 2, "labels": 9, "start": 9}


# start epochs


def test_the_upper_bound_grows_by_whole_epochs_and_then_stays():
    grow = {"min_start_epoch": 2, "current_max_start_epoch": 4, "max_start_epoch": 7, "expansion_end_epoch": 10}
    ends = [make_condenser("datm", **grow).start_epochs(iteration) for iteration in range(13)]
    assert ends == [(2, end) for end in (4, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7)]
    without = make_condenser("datm", min_start_epoch=2, max_start_epoch=7)
    assert {without.start_epochs(iteration) for iteration in range(13)} == {(2, 7)}


def test_segments_start_between_the_bounds_and_never_at_the_upper_one(tmp_path):
    grow = {"min_start_epoch": 1, "current_max_start_epoch": 3, "max_start_epoch": 5, "expansion_end_epoch": 100}
    condenser = make_condenser("datm", **grow, num_experts=1)
    problem = make_problem(condenser, tmp_path)
    drawn = [condenser.segments(problem, iteration)[0].epoch for iteration in range(200)]
    assert {1, 2} == set(drawn[:50]) and {1, 2, 3} == set(drawn[50:100]) and {1, 2, 3, 4} == set(drawn[100:])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"min_start_epoch": 5}, "min_start_epoch = 5: must be below max_start_epoch = 5"),
        ({"current_max_start_epoch": 6}, "current_max_start_epoch = 6: must be above min_start_epoch = 0 and at most"),
        ({"min_start_epoch": 3, "current_max_start_epoch": 3}, "must be above min_start_epoch = 3"),
        (
            {"current_max_start_epoch": 3},
            "expansion_end_epoch = 0: with current_max_start_epoch = 3 it must be above 0",
        ),
    ],
)
def test_bounds_that_leave_no_epoch_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        resolve([Layer("--set", {"method": "datm", "recipe": "none", "max_start_epoch": 5} | wrong)])


# labels


def test_the_labels_descend_the_gradient_of_the_loss_with_a_momentum_of_their_own(tmp_path):
    """Two iterations against torch's SGD on central differences of the loss by each logit."""
    still = {"lr_lr": 0.0, "lr_img": 1e-30, "threshold": None}
    condenser = make_condenser("datm", lr_y=0.7, momentum_y=0.8, **still)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    state = condenser.init(problem)
    logits = state["labels"].clone().requires_grad_()
    optimiser = torch.optim.SGD([logits], lr=0.7, momentum=0.8)
    for iteration in range(2):
        start, h = {key: tensor.clone() for key, tensor in state.items()}, 1e-5

        def loss(labels, start=start, iteration=iteration):
            moved = {key: tensor.clone() for key, tensor in start.items()} | {"labels": labels}
            return condenser.step(moved, problem, iteration)["loss"]

        optimiser.zero_grad()
        logits.grad = torch.zeros_like(logits)
        for place in range(logits.numel()):
            e = torch.zeros(logits.numel(), dtype=torch.float64)
            e[place] = h
            moved = [start["labels"] + sign * e.view_as(logits) for sign in (1, -1)]
            logits.grad.view(-1)[place] = (loss(moved[0]) - loss(moved[1])) / (2 * h)
        optimiser.step()
        condenser.step(state, problem, iteration)
        assert relative_error(state["labels"] - start["labels"], logits.detach() - start["labels"]) < 1e-5


@pytest.mark.parametrize("views", [{"flip": True}, {"factor": 2}])
def test_all_views_of_an_image_move_its_one_label(views, tmp_path):
    condenser = make_condenser("datm", lr_y=1.0, threshold=None, **views)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    start = condenser.init(problem)
    state = {key: tensor.clone() for key, tensor in start.items()}
    condenser.step(state, problem, 0)
    gradient = start["labels"] - state["labels"]
    direction = torch.randn(gradient.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = []
    for h in (1e-6, -1e-6):
        moved = {key: tensor.clone() for key, tensor in start.items()}
        moved["labels"] += h * direction
        losses.append(condenser.step(moved, problem, 0)["loss"])
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_labels_start_at_the_mean_logits_of_the_experts_that_are_right(tmp_path):
    """Image by image and expert by expert. One image has a wrong class, which no expert predicts: all of them count."""
    condenser = make_condenser("datm", num_experts=4, label_epoch=3)
    problem = make_problem(condenser, tmp_path, ipc=5)
    start = condenser.init(problem)
    y = start["labels"].new_tensor([0] * 5 + [1] * 5 + [2] * 5).long()
    for wrong in (None, 7):
        if wrong is not None:
            y[wrong] = 0
        actual = condenser.initial_logits(problem, start["images"], y)
        right = 0
        for image, label, found in zip(start["images"], y, actual, strict=True):
            said = [problem.network.logits(problem.experts.snapshot(k, 3), image[None])[0] for k in range(4)]
            used = [logits for logits in said if int(logits.argmax()) == label]
            right += bool(used)
            torch.testing.assert_close(found, sum(used or said) / len(used or said), rtol=1e-4, atol=1e-5)
        assert right == (15 if wrong is None else 14)


@pytest.mark.parametrize("epoch", [0, 2])
def test_labels_are_finite_where_no_expert_is_right(epoch, tmp_path):
    """The released code divides zero by zero there. Noise, and experts that have learned nothing, are such images."""
    condenser = make_condenser("datm", init="noise", label_epoch=epoch, num_experts=1)
    problem = make_problem(condenser, tmp_path, ipc=10)
    for state in states(condenser, problem, 2):
        assert state["labels"].isfinite().all()
    labels = condenser.distilled(state, problem).labels
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels.sum(1), torch.ones(30))


# the start


def test_it_starts_from_images_that_an_expert_predicts_correctly(tmp_path):
    condenser = make_condenser("datm")
    problem = make_problem(condenser, tmp_path, ipc=12)
    real = problem.inputs[torch.arange(len(problem.inputs))]
    chosen = [int((real - image).abs().flatten(1).sum(1).argmin()) for image in condenser.init(problem)["images"]]
    assert len(set(chosen)) == 36
    assert problem.data.train.labels[chosen].tolist() == [c for c in range(3) for _ in range(12)]
    said = problem.network.logits(problem.experts.snapshot(0, condenser.config.labelled_at), real)
    wrong = [row for row in range(len(real)) if int(said[row].argmax()) != problem.data.train.labels[row]]
    assert wrong and not set(wrong) & set(chosen)


def test_what_no_expert_predicts_correctly_is_chosen_by_how_near_it_comes(tmp_path):
    """Expert 0 knows three images of each class, expert 1 one more; the rest follow by margin, the largest first."""
    condenser = make_condenser("datm", num_experts=2)
    problem = make_problem(condenser, tmp_path, data=blobs(per_class=8), ipc=6)
    margins = {
        0: torch.tensor([-3.0, 1.0, -5.0, 2.0, -4.0, 0.5, -2.0, -6.0]),
        1: torch.tensor([-0.5, -1.0, 3.0, -2.0, -0.2, -3.0, -0.1, -4.0]),
    }

    def judged(problem, expert, rows, c):
        members = problem.members[c].tolist()
        return margins[expert][[members.index(row) for row in rows.tolist()]]

    condenser.margins = judged
    start = condenser.start(problem, 6)
    for c, images in enumerate(start.view(3, 6, 1, 8, 8)):
        real = problem.inputs[problem.members[c]]
        chosen = [int((real - image).abs().flatten(1).sum(1).argmin()) for image in images]
        assert set(chosen[:3]) == {1, 3, 5} and chosen[3:] == [2, 6, 4]


def test_a_class_with_fewer_images_than_are_wanted_is_refused(tmp_path):
    condenser = make_condenser("datm", factor=3)
    problem = make_problem(condenser, tmp_path, data=blobs(per_class=10))
    with pytest.raises(ConfigError, match=r"init = 'correct': 18 .* class 0 has 10"):
        condenser.init(problem)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("kind", ["correct", "real", "noise", "mean", "kmeans"])
def test_every_start_can_be_had(kind, factor, tmp_path):
    condenser = make_condenser("datm", init=kind, factor=factor)
    state = condenser.init(make_problem(condenser, tmp_path))
    assert state["images"].shape == (6, 1, 8, 8) and state["images"].isfinite().all()
    assert state["labels"].shape == (6, 3) and state["labels"].isfinite().all()


# the threshold


def test_an_iteration_above_the_threshold_changes_nothing(tmp_path):
    """Neither the set nor any momentum; the next iteration is the one it would have been."""
    condenser, free = (make_condenser("datm", threshold=t, ema_decay=0.5) for t in (1.0, None))
    problem = make_problem(condenser, tmp_path)
    *_, state = states(free, problem, 2)
    losses = [free.step({key: tensor.clone() for key, tensor in state.items()}, problem, i)["loss"] for i in (2, 3)]
    skipping = make_condenser("datm", threshold=0.99 * losses[0], ema_decay=0.5)
    before = {key: tensor.clone() for key, tensor in state.items()}
    assert skipping.step(state, problem, 2)["updated"] == 0
    assert_same_bits(state, before)
    taking = make_condenser("datm", threshold=losses[1], ema_decay=0.5)
    assert taking.step(state, problem, 3)["updated"] == 1
    free.step(before, problem, 3)
    assert_same_bits(state, before)


# each switch for itself


SWITCHES = [
    ({"min_start_epoch": 1}, {"segments", "start", "outer loss"}),
    ({"current_max_start_epoch": 1, "expansion_end_epoch": 99}, {"segments", "start", "outer loss"}),
    ({"threshold": 1.5}, {"update"}),
    ({"soft_labels": True}, {"labels"}),
    ({"init": "correct"}, {"images"}),
    ({"soft_labels": True, "label_epoch": 9}, {"experts", "labels"}),
    ({"init": "correct", "label_epoch": 9}, {"experts", "images"}),
]


@pytest.mark.parametrize(("switch", "own"), SWITCHES, ids=[str(switch) for switch, _ in SWITCHES])
def test_each_switch_changes_only_its_own_part(switch, own, tmp_path):
    """Every draw, start, label and derivative apart from its own stays the same to the bit."""
    longest = PLAIN | {"soft_labels": True, "max_start_epoch": 4, "label_epoch": 9}
    problem = make_problem(make_condenser("datm", **longest), tmp_path)
    plain = make_condenser("datm", **PLAIN, max_start_epoch=4)
    switched = make_condenser("datm", **PLAIN | switch, max_start_epoch=4)
    found = differing(trajectory_parts(plain, problem), trajectory_parts(switched, problem))
    assert found <= own and found & own


def test_it_resumes_to_the_same_bits_while_its_range_grows(tmp_path):
    grow = {"current_max_start_epoch": 1, "max_start_epoch": 3, "expansion_end_epoch": 4}
    condenser = make_condenser("datm", **grow)
    problem = make_problem(condenser, tmp_path)
    *_, half, _, _, whole = states(condenser, problem, 6)
    for iteration in (3, 4, 5):
        make_condenser("datm", **grow).step(half, problem, iteration)
    assert_same_bits(half, whole)


# what the released code has and does not use


def test_the_moving_average_is_used_where_it_is_asked_for(tmp_path):
    assert DATMConfig().ema_decay == 0
    condenser = make_condenser("datm", ema_decay=0.9)
    problem = make_problem(condenser, tmp_path)
    *_, state = states(condenser, problem, 2)
    assert torch.equal(condenser.distilled(state, problem).images, state["ema"])
    assert not torch.equal(state["ema"], state["images"])


def test_no_published_row_is_evaluated_on_one_network():
    published = [row for row in rows("datm") if row["recipe"] == "published"]
    assert len(published) == 12
    for row in published:
        assert load_protocol(row["values"]["protocol"]).networks >= 5
        assert row["values"].get("eval_repeats", 5) >= 5
