"""Scores of networks in training, against training and judging them by hand."""

import copy
from itertools import islice

import pytest
import torch
from problems import CLASSES, blobs

from condense.data import Inputs, Split, fit_preprocessing
from condense.errors import ConfigError
from condense.objectives import error_norm, forgetting_events, gradient_norm
from condense.rng import generator
from condense.teachers import SqueezePlan, hardness, squeeze

SEED, NETWORKS, EPOCHS, N = 3, 2, 4, 13
CONVNET = "convnet:width=4,depth=2,norm=batch"
PLAN = SqueezePlan(network=CONVNET, epochs=6, lr=0.1, batch=4, mirrored=False)


@pytest.fixture
def data():
    """13 images in batches of 4, so that one is left out of each epoch."""
    real = blobs()
    preprocessing = fit_preprocessing("mean_std", real, None).to("cpu", torch.float64)
    labels = real.train.labels[:N]
    return Inputs(Split(real.train.images[:N], labels), preprocessing), labels


def scored(score, data, plan=PLAN, networks=NETWORKS, epochs=EPOCHS):
    return hardness(score, plan, *data, classes=CLASSES, seed=SEED, networks=networks, epochs=epochs)


def modules(data, index, epochs=EPOCHS):
    """The network as it is after each of the first epochs of the whole plan."""
    training = squeeze(PLAN, *data, classes=CLASSES, seed=SEED, index=index)
    return [copy.deepcopy(module) for module in islice(training, epochs)]


def test_scoring_can_be_stopped_after_each_epoch_of_each_network(data):
    polls = []
    hardness(
        "forgetting",
        PLAN,
        *data,
        classes=CLASSES,
        seed=SEED,
        networks=NETWORKS,
        epochs=EPOCHS,
        poll=lambda: polls.append(1),
    )
    assert len(polls) == NETWORKS * EPOCHS


def by_hand(data, index):
    """EL2N and GraNd of the early network, one image at a time."""
    (inputs, labels), module = data, modules(data, index)[-1].eval()
    seen, rows = [], []
    module.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for n in range(N):
        with torch.no_grad():
            z = module(inputs[torch.tensor([n])])
        y = labels[n : n + 1]
        rows.append([error_norm(z, y), gradient_norm(z, seen[-1], y)])
    return torch.tensor(rows, dtype=torch.float64)


def test_el2n_and_grand_are_means_over_networks_early_in_the_teachers_training(data, monkeypatch):
    monkeypatch.setattr("condense.teachers.scores.AT_ONCE", 5)
    expected = torch.stack([by_hand(data, index) for index in range(NETWORKS)]).mean(0)
    torch.testing.assert_close(scored("el2n", data), expected[:, 0])
    torch.testing.assert_close(scored("grand", data), expected[:, 1])


def presentations(data, index):
    """Whether each image was classified right in each epoch's training, None where it was left out of it."""
    (_, labels), found, logits = data, [], {}
    training = squeeze(
        PLAN,
        *data,
        classes=CLASSES,
        seed=SEED,
        index=index,
        watch=lambda rows, z: logits.update(zip(rows.tolist(), z, strict=True)),
    )
    for _ in range(EPOCHS):
        logits.clear()
        next(training)
        assert len(logits) == N - 1
        found.append([int(logits[n].argmax()) == int(labels[n]) if n in logits else None for n in range(N)])
    return found


def test_forgetting_is_counted_over_presentations(data):
    """An image that an epoch leaves out was not presented, and neither learned nor forgotten by that."""
    counts = torch.zeros(NETWORKS, N)
    for index in range(NETWORKS):
        for n, column in enumerate(zip(*presentations(data, index), strict=True)):
            shown = torch.tensor([[right] for right in column if right is not None])
            counts[index, n] = min(float(forgetting_events(shown)), EPOCHS)
    assert len(counts.unique()) > 2
    assert torch.equal(scored("forgetting", data), counts.mean(0))


def test_an_image_with_a_wrong_label_is_the_hardest():
    """Many images of three patterns; one of the first is called another."""
    real = blobs()
    labels = real.train.labels.clone()
    labels[0] = 1
    inputs = Inputs(Split(real.train.images, labels), fit_preprocessing("mean_std", real, None))
    for score in ("el2n", "grand", "forgetting"):
        found = scored(score, (inputs, labels), PLAN.model_copy(update={"batch": 8, "lr": 0.02}), epochs=6)
        assert (found >= found[0]).sum() <= 0.1 * len(found), score


@pytest.mark.parametrize("score", ["el2n", "forgetting"])
def test_grand_needs_a_last_linear_layer(score):
    real = blobs(size=64, per_class=3)
    labels = real.train.labels
    data = Inputs(Split(real.train.images, labels), fit_preprocessing("mean_std", real, None)), labels
    plan = PLAN.model_copy(update={"network": "torchvision:squeezenet1_1", "lr": 1e-4})
    assert scored(score, data, plan, 1, 1).isfinite().all()
    with pytest.raises(ConfigError, match=r"squeezenet1_1.*does not end in a Linear layer"):
        scored("grand", data, plan, 1, 1)


def test_the_watch_sees_the_logits_before_the_step_and_changes_nothing(data):
    seen = []
    watched = squeeze(PLAN, *data, classes=CLASSES, seed=SEED, index=0, watch=lambda rows, z: seen.append((rows, z)))
    one, (other, *_) = next(watched), modules(data, 0, 1)
    for ours, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    order = torch.randperm(N, generator=generator(SEED, "squeeze.0.epoch", 0))[: N - 1]
    assert torch.equal(torch.cat([rows for rows, _ in seen]), order)
    assert all(z.shape == (len(rows), CLASSES) and not z.requires_grad for rows, z in seen)
