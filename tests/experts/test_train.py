"""Expert training against torch's optimiser, and what makes an expert reproducible alone."""

import json
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from small_experts import (
    BATCH,
    CONVNET,
    ON,
    SEED,
    N,
    Watched,
    batches,
    flat,
    inputs_and_labels,
    network,
    same_module,
    snapshots,
)
from torch.nn import functional as F

from condense.augment import DSA, FULL_STRATEGY, cutmix
from condense.experts import ExpertPlan
from condense.rng import generator


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dsa", ["none", FULL_STRATEGY])
def test_is_torchs_sgd_on_the_same_batches(dsa, momentum):
    module = same_module(2)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=momentum)
    expert = snapshots(2, dsa=dsa, momentum=momentum)
    torch.testing.assert_close(next(expert), flat(module), rtol=0, atol=0)
    for epoch, theta in enumerate(expert):
        for x, y in batches(2, epoch, dsa):
            optimiser.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimiser.step()
        torch.testing.assert_close(theta, flat(module), rtol=1e-11, atol=1e-13)


def test_batches_may_be_split():
    plan = {"rho": 0.01, "alpha": 1.0, "cutmix": 0.5, "dsa": FULL_STRATEGY}
    for theta, split in zip(snapshots(**plan), snapshots(micro_batch=3, **plan), strict=True):
        torch.testing.assert_close(split, theta, rtol=1e-10, atol=1e-12)


def test_is_torchs_sgd_with_weight_decay_and_a_falling_rate():
    """MultiStepLR, which steps after each epoch: at its milestone 2 the epochs 2, 3, ... have the lower rate."""
    module = same_module(1)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2, 3], gamma=0.2)
    plan = {"epochs": 5, "momentum": 0.9, "weight_decay": 0.01, "decay_epochs": (2, 3), "decay_factor": 0.2}
    for epoch, theta in enumerate(list(snapshots(1, **plan))[1:]):
        for x, y in batches(1, epoch):
            optimiser.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimiser.step()
        schedule.step()
        torch.testing.assert_close(theta, flat(module), rtol=1e-11, atol=1e-13)


def mixed_batches(index, epoch, probability):
    """The batches of an expert with colour, then crop, then CutMix."""
    inputs, labels = inputs_and_labels()
    draws = generator(SEED, f"expert.{index}.epoch", epoch)
    for rows in torch.randperm(N, generator=draws).split(BATCH):
        x = DSA("color").augment(inputs[rows], draws)
        x = DSA("crop").augment(x, draws)
        yield cutmix(x, labels[rows], ON["classes"], draws, probability)


def test_composed_operators_and_cutmix_are_applied_in_this_order():
    module, mixed = same_module(2), 0
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    plan = {"dsa": "color_crop", "composed": True, "cutmix": 0.5}
    for epoch, theta in enumerate(list(snapshots(2, **plan))[1:]):
        for x, y in mixed_batches(2, epoch, 0.5):
            mixed += bool((y.max(1).values < 1).any())
            optimiser.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimiser.step()
        torch.testing.assert_close(theta, flat(module), rtol=1e-11, atol=1e-13)
    assert 0 < mixed < 9  # of nine batches


def test_a_plan_is_the_same_after_json():
    """A store compares the plan in its manifest with the one it is asked for."""
    plan = ExpertPlan(epochs=6, lr=0.1, batch=4, decay_epochs=(4, 5), decay_factor=0.2)
    assert json.loads(json.dumps(plan.model_dump())) == plan.model_dump()
    assert ExpertPlan(**plan.model_dump()) == plan


def test_snapshots_are_the_start_and_one_for_each_epoch():
    expert = list(snapshots(epochs=4))
    assert len(expert) == 5 and all(theta.shape == (network().num_parameters,) for theta in expert)
    assert not any(torch.equal(a, b) for a, b in pairwise(expert))


def test_snapshots_have_memory_of_their_own():
    """Writing over a snapshot, early or late, changes no other one."""
    kept, overwritten = list(snapshots()), []
    for theta in snapshots():
        overwritten.append(theta)
        assert torch.equal(theta, kept[len(overwritten) - 1])
        theta.fill_(torch.nan)
    assert len({theta.untyped_storage().data_ptr() for theta in kept}) == len(kept)
    assert not any(theta.requires_grad for theta in kept)


def test_every_epoch_is_one_shuffled_pass_with_its_last_partial_batch():
    inputs, labels = inputs_and_labels()
    watched = Watched(inputs)
    list(snapshots(data=(watched, labels)))
    epochs = [watched.taken[i : i + 3] for i in range(0, 9, 3)]
    assert len(watched.taken) == 9
    for epoch in epochs:
        assert [len(rows) for rows in epoch] == [BATCH, BATCH, N % BATCH]
        assert sorted(row for rows in epoch for row in rows) == list(range(N))
    assert len({str(epoch) for epoch in epochs}) == 3


def test_one_expert_alone_is_the_same_as_after_others():
    inputs, labels = inputs_and_labels()
    for index in range(3):
        after_others = list(snapshots(index, data=(inputs, labels), dsa=FULL_STRATEGY))
    alone = list(snapshots(2, dsa=FULL_STRATEGY))
    assert all(torch.equal(a, b) for a, b in zip(alone, after_others, strict=True))


def test_two_experts_at_once_do_not_disturb_each_other():
    alone = [list(snapshots(index)) for index in (0, 1)]
    woven = list(zip(snapshots(0), snapshots(1), strict=True))
    for index in (0, 1):
        assert all(torch.equal(pair[index], theta) for pair, theta in zip(woven, alone[index], strict=True))


def test_a_longer_expert_begins_like_a_shorter_one():
    """So a store of more epochs serves a run that needs fewer."""
    plan = {"momentum": 0.9, "decay_epochs": (1, 3), "decay_factor": 0.5, "cutmix": 0.5}
    short, long = list(snapshots(epochs=2, **plan)), list(snapshots(epochs=4, **plan))
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))


@pytest.mark.parametrize("other", [{"index": 1}, {"seed": 6}])
def test_experts_differ_by_index_and_seed(other):
    one, two = list(snapshots()), list(snapshots(**other))
    assert not any(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = list(snapshots(dsa=FULL_STRATEGY, rho=0.01))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(one, snapshots(dsa=FULL_STRATEGY, rho=0.01), strict=True))


def test_training_lowers_the_loss():
    inputs, labels = inputs_and_labels()
    losses = []
    for theta in snapshots(epochs=20):
        losses.append(float(F.cross_entropy(network(CONVNET).logits(theta, inputs[torch.arange(N)]), labels)))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"batch": 0},
        {"momentum": 1.0},
        {"rho": -1.0},
        {"alpha": -1.0},
        {"steps": 1},
        {"cutmix": 2.0},
        {"decay_factor": 0.0},
    ],
)
def test_a_plan_refuses_what_cannot_be(wrong):
    with pytest.raises(ValidationError):
        ExpertPlan(**{"epochs": 1, "lr": 0.1, "batch": 1, **wrong})
