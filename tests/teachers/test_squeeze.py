"""The training of teachers against torch's optimisers and schedule, and what makes a teacher reproducible alone."""

import copy
import math

import pytest
import torch
from problems import CLASSES, assert_same_bits, blobs
from pydantic import ValidationError
from torch.nn import functional as F

from condense.augment import crop_flip
from condense.data import Inputs, Split, fit_preprocessing
from condense.errors import ConfigError, DataError, NumericsError
from condense.networks import create
from condense.rng import generator, isolated
from condense.teachers import SqueezePlan, held_out_accuracy, squeeze

SEED, SIZE, BATCH = 3, 8, 4
CONVNET = "convnet:width=4,depth=2,norm=batch"
PLAN = {"network": CONVNET, "epochs": 3, "lr": 0.05, "batch": BATCH, "mirrored": False}


def inputs_and_labels(n=11, dtype=torch.float64):
    data = blobs()
    preprocessing = fit_preprocessing("mean_std", data, None).to("cpu", dtype)
    return Inputs(Split(data.train.images[:n], data.train.labels[:n]), preprocessing), data.train.labels[:n]


def states(index=0, data=None, seed=SEED, **plan):
    """What the teacher is after each epoch, as copies."""
    inputs, labels = data or inputs_and_labels()
    for module in squeeze(SqueezePlan(**PLAN | plan), inputs, labels, classes=CLASSES, seed=seed, index=index):
        yield copy.deepcopy(module.state_dict())


OPTIMISERS = {
    "sgd": lambda theta: torch.optim.SGD(theta, lr=0.05, momentum=0.8, weight_decay=0.01),
    "adam": lambda theta: torch.optim.Adam(theta, lr=0.05, betas=(0.8, 0.999), weight_decay=0.01),
}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_is_torchs_optimiser_and_cosine_on_the_same_batches(optimizer, mirrored):
    inputs, labels = inputs_and_labels()
    with isolated(SEED, "squeeze.init", 2):
        module = create(CONVNET, channels=1, size=SIZE, classes=CLASSES).double()
    optimiser = OPTIMISERS[optimizer](module.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=3)
    plan = {"optimizer": optimizer, "momentum": 0.8, "weight_decay": 0.01, "mirrored": mirrored}
    for epoch, state in enumerate(states(2, **plan)):
        draws = generator(SEED, "squeeze.2.epoch", epoch)
        order = torch.randperm(11, generator=draws)
        for rows in (order[:4], order[4:8], order[8:]):
            x = crop_flip(inputs[rows], draws, mirrored=mirrored)
            optimiser.zero_grad()
            F.cross_entropy(module(x), labels[rows]).backward()
            optimiser.step()
        schedule.step()
        torch.testing.assert_close(state, dict(module.state_dict()), rtol=1e-9, atol=1e-11)


def test_the_rate_falls_from_the_whole_along_half_a_cosine():
    plan = SqueezePlan(**PLAN | {"lr": 0.2, "epochs": 4})
    assert [plan.lr_of(epoch) for epoch in range(4)] == pytest.approx(
        [0.2, 0.1 + 0.1 * math.sqrt(0.5), 0.1, 0.1 - 0.1 * math.sqrt(0.5)]
    )


@pytest.mark.parametrize("network", [CONVNET, "torchvision:mobilenet_v2"])
def test_equal_seeds_give_equal_bits_whatever_was_drawn_before(network):
    """mobilenet_v2 has dropout, which draws from the global generator; so small a map makes its gradients large."""
    data, plan = inputs_and_labels(6, torch.float32), {"network": network, "epochs": 2, "lr": 1e-6}
    first = list(states(1, data, **plan))
    torch.randn(5)
    before = torch.get_rng_state()
    second = list(states(1, data, **plan))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first, second, strict=True):
        assert_same_bits(one, other)


def test_teachers_of_other_indices_and_seeds_are_others():
    one, *others = (next(states(index, seed=seed)) for index, seed in ((0, 3), (1, 3), (0, 4)))
    assert not any(torch.equal(one["classifier.weight"], other["classifier.weight"]) for other in others)


def test_testing_between_epochs_changes_nothing():
    inputs, labels = inputs_and_labels()
    plan = SqueezePlan(**PLAN)
    for module, state in zip(squeeze(plan, inputs, labels, classes=CLASSES, seed=SEED, index=0), states(), strict=True):
        held_out_accuracy(module, inputs, labels)
        assert_same_bits(dict(module.state_dict()), dict(state))


def test_a_last_batch_of_one_image_is_left_out_with_batch_norm():
    """Each BatchNorm counts its batches."""
    counts = {n: list(states(data=inputs_and_labels(n)))[-1]["features.1.num_batches_tracked"] for n in (8, 9, 10)}
    assert {n: int(count) // 3 for n, count in counts.items()} == {8: 2, 9: 2, 10: 3}


def test_a_single_image_is_refused_with_batch_norm_alone():
    data = inputs_and_labels(1)
    with pytest.raises(DataError, match="single image"):
        next(states(data=data))
    assert len(list(states(data=data, network="convnet:width=4,depth=2"))) == 3


def test_divergence_stops_it():
    with pytest.raises(NumericsError, match=r"teacher 0 \(convnet.*epoch 1"):
        list(states(lr=1e200))


@pytest.mark.parametrize("wrong", [{"optimizer": "lion"}, {"batch": 1}, {"lr": 0}, {"epochs": 0}, {"nesterov": True}])
def test_a_wrong_plan_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SqueezePlan(**PLAN | wrong)


def test_an_unknown_network_is_refused():
    with pytest.raises(ConfigError, match="resnet18"):
        next(states(network="resnet81"))


@pytest.mark.parametrize("network", [CONVNET, "resnet18:width=4,norm=batch"])
def test_accuracy_on_held_out_images_goes_up(network):
    """From that of a guess. The patterns of the blobs fill the image, so shifted ones are hard to tell apart."""
    data = blobs()
    preprocessing = fit_preprocessing("mean_std", data, None)
    inputs, held = (Inputs(split, preprocessing) for split in (data.train, data.test))
    plan = SqueezePlan(**PLAN | {"network": network, "epochs": 12, "batch": 16})
    training = squeeze(plan, inputs, data.train.labels, classes=CLASSES, seed=0, index=0)
    accuracies = [held_out_accuracy(module, held, data.test.labels) for module in training]
    assert accuracies[0] < 0.5 and accuracies[-1] > 0.7
