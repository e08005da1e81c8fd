"""Protocols that distil: stores played back and soft labels at a temperature, against training written out by hand."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from condense import evaluation
from condense.augment import mixup
from condense.errors import DataError
from condense.evaluation import TrainingSet, evaluate, load_protocol, train_network
from condense.evaluation.fresh import compiled_network
from condense.networks import paying
from condense.rng import generator, isolated
from condense.synthetic import LabelStore, draw_views, relabel

N, SIZE, CLASSES = 11, 6, 3
CPU = torch.device("cpu")
IMAGES = torch.randn(N, 1, SIZE, SIZE, dtype=torch.float64, generator=generator(0, "images"))
LABELS = torch.arange(N) % CLASSES
PLAIN = replace(load_protocol("quick"), epochs=3, batch=4, lr=0.05, learned_lr=False, augmentation="none")
KD = replace(PLAIN, temperature=4.0)
TEST = evaluation.TestSet(IMAGES.float(), LABELS)


def network(seed=0, norm=nn.Identity):
    layers = nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, CLASSES)
    with isolated(seed, "network"):
        return nn.Sequential(*layers).double().apply(lambda m: getattr(m, "reset_parameters", lambda: None)())


TEACHER = network(1)


def made(kind="logits", mix="cutmix", batch=5, epochs=4, **settings):
    """A store whose views and labels are known; batches of 5 and 6."""
    views = draw_views(
        N,
        SIZE,
        epochs=epochs,
        batch=batch,
        crop="resized",
        smallest=0.3,
        mirrored=True,
        mix=mix,
        draws=lambda epoch: generator(2, "views", epoch),
    )

    def label(shown):
        z = TEACHER(shown.x)
        if kind == "logits":
            return z
        return torch.stack([-z.log_softmax(1)[range(len(z)), LABELS[r]] for r in (shown.rows, shown.partner_rows)], 1)

    return LabelStore(views, kind, relabel(IMAGES, views, label), **settings)


def trained(training, protocol, model=None, mix=None, augment=lambda x, _: x, **settings):
    model = network() if model is None else model
    done = train_network(
        model, training, protocol, lr=protocol.lr, augment=augment, mix=mix, seed=7, index=2, **settings
    )
    return model, done


def equal(a, b, **tolerance):
    for ours, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        if tolerance:
            torch.testing.assert_close(ours, theirs, **tolerance)
        elif not torch.equal(ours, theirs):
            return False
    return True


def by_hand(store, model, temperature, groups, rate, optimizer):
    """Plays a store back with the loss written out; `groups` cuts a batch, `rate` is the learning rate of an epoch."""
    views = store.views
    for epoch in range(views.epochs):
        for k, places in enumerate(views.batches):
            x, rows, partner_rows, s = views.show(IMAGES, epoch, k)
            taught, y, other = store.values[epoch, places].double(), LABELS[rows], LABELS[partner_rows]
            optimizer.param_groups[0]["lr"] = rate(epoch)
            optimizer.zero_grad()
            passes = [model(x[part]) for part in groups(len(x))]  # batch norm sees each part alone
            z = torch.cat(passes)
            hard = s * F.cross_entropy(z, y) + (1 - s) * F.cross_entropy(z, other)
            if store.kind == "logits":
                p = (taught / temperature).softmax(1)
                soft = (p * (p.log() - (z / temperature).log_softmax(1))).sum(1).mean() * temperature**2
                loss = store.weight * soft + (1 - store.weight) * hard
            else:
                apart = [F.cross_entropy(z, label, reduction="none") for label in (y, other)]
                loss = hard + store.weight * sum((a - taught[:, i]).abs().mean() for i, a in enumerate(apart))
            loss.backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize(("kind", "weight"), [("logits", 1.0), ("logits", 0.3), ("distances", 2.0)])
def test_a_store_is_played_back(kind, weight, mix):
    """Its own epochs and batches, with the protocol's AdamW, cosine and temperature."""
    store = made(kind, mix, weight=weight)
    cosine = {"schedule": "cosine", "horizon": 2.0, "decay_at": (), "decay_factor": None}
    protocol = replace(KD, optimizer="adamw", weight_decay=0.1, lr=0.01, **cosine)
    model, done = trained(TrainingSet(IMAGES, LABELS, store=store), protocol)
    expected = network()
    adam = torch.optim.AdamW(expected.parameters(), betas=(0.9, 0.999), weight_decay=0.1)
    rates = [0.01 / 2 * (1 + math.cos(math.pi * epoch / 8)) for epoch in range(4)]
    by_hand(store, expected, 4.0, lambda b: [slice(0, b)], rates.__getitem__, adam)
    equal(model, expected, rtol=1e-8, atol=1e-10)
    assert done.updates == 4 * 2


def test_the_steps_of_a_schedule_are_at_fractions_of_the_stores_epochs():
    store = made()
    model, _ = trained(TrainingSet(IMAGES, LABELS, store=store), KD)
    expected = network()
    sgd = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    by_hand(store, expected, 4.0, lambda b: [slice(0, b)], [0.05, 0.05, 0.005, 0.005].__getitem__, sgd)
    equal(model, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("group", [2, 3, 8])
def test_batch_norm_sees_the_groups_of_the_teachers(group):
    """The running statistics too are those of separate passes; what is left over of one image joins a group."""
    cuts = {2: {5: [2, 3], 6: [2, 2, 2]}, 3: {5: [3, 2], 6: [3, 3]}, 8: {5: [5], 6: [6]}}[group]

    def groups(b):
        ends = torch.tensor([0, *cuts[b]]).cumsum(0).tolist()
        return [slice(*pair) for pair in pairwise(ends)]

    store, protocol = made(group=group), replace(KD, decay_at=(), decay_factor=None)
    model, _ = trained(TrainingSet(IMAGES, LABELS, store=store), protocol, network(norm=nn.BatchNorm2d))
    expected = network(norm=nn.BatchNorm2d)
    sgd = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    by_hand(store, expected, 4.0, groups, lambda _: 0.05, sgd)
    equal(model, expected, rtol=1e-7, atol=1e-9)


def test_a_batch_that_leaves_one_image_over_does_not_break_batch_norm():
    """Features of one pixel, over which batch norm has no variance for one image."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(SIZE**2), nn.Linear(SIZE**2, CLASSES)).double()
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    trained(TrainingSet(IMAGES, LABELS, store=made(group=2)), KD, model)
    assert seen == [2, 3, 2, 2, 2] * 4


def test_without_weight_a_store_trains_on_its_views_by_cross_entropy():
    store = made(mix="none", weight=0.0)
    other = replace(store, values=torch.randn(store.values.shape, generator=generator(3, "noise")).half())
    one, two = (trained(TrainingSet(IMAGES, LABELS, store=s), KD)[0] for s in (store, other))
    assert equal(one, two)


def test_soft_labels_may_come_with_a_store():
    """They take the place of the hard labels in the loss."""
    soft = F.one_hot(LABELS, CLASSES).double()
    one, two = (trained(TrainingSet(IMAGES, y, store=made(weight=0.3)), KD)[0] for y in (LABELS, soft))
    equal(one, two, rtol=1e-8, atol=1e-10)


def test_other_protocols_leave_the_store_alone():
    plain, stored = (trained(TrainingSet(IMAGES, LABELS, store=s), PLAIN)[0] for s in (None, made()))
    assert equal(plain, stored)


def test_hard_labels_are_learned_as_without_a_temperature():
    plain, distilling = (trained(TrainingSet(IMAGES, LABELS), protocol)[0] for protocol in (PLAIN, KD))
    assert equal(plain, distilling)


@pytest.mark.parametrize("mixed", [False, True])
def test_soft_labels_are_logits_at_the_temperature(mixed):
    """MixUp mixes them as logits: of the probabilities p that is their weighted geometric mean."""
    q = 3 * torch.randn(N, CLASSES, dtype=torch.float64, generator=generator(4, "q"))

    def mix(x, y, draws):
        return mixup(x, y, CLASSES, draws, 0.8)

    model, _ = trained(TrainingSet(IMAGES, q.softmax(1)), KD, mix=mix if mixed else None)
    expected, step = network(), 0
    sgd = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(3):
        sgd.param_groups[0]["lr"] = 0.05 if epoch < 2 else 0.005
        order = torch.randperm(N, generator=generator(7, "evaluation.order.2", epoch))
        for rows in order.split(4):
            x, taught = IMAGES[rows], q[rows]
            if mixed:
                x, taught = mix(x, taught, generator(7, "evaluation.mix.2", step))
            sgd.zero_grad()
            student = F.log_softmax(expected(x) / 4, 1)
            (16 * F.kl_div(student, (taught / 4).softmax(1), reduction="batchmean")).backward()
            sgd.step()
            step += 1
    equal(model, expected, rtol=1e-7, atol=1e-9)


def test_probabilities_of_zero_stay_finite():
    for mix in (None, lambda x, y, draws: mixup(x, y, CLASSES, draws, 0.8)):
        model, (loss, _) = trained(TrainingSet(IMAGES, F.one_hot(LABELS, CLASSES).double()), KD, mix=mix)
        assert bool(loss.isfinite()) and all(bool(p.isfinite().all()) for p in model.parameters())


def result(training, protocol, **settings):
    given = {"classes": CLASSES, "protocol": protocol, "dsa": "crop", "seed": 0, "device": CPU, "n": 1}
    return evaluate(training, TEST, "convnet:width=4,depth=1,norm=batch", **{**given, **settings})


def test_the_record_says_what_was_done():
    stored = TrainingSet(IMAGES.float(), LABELS, store=made(group=2))
    dsa = replace(KD, augmentation="dsa")
    played, plain = result(stored, dsa), result(stored, replace(dsa, temperature=None))
    assert (played.epochs, played.updates, played.augmentation, played.compiled) == (4, 8, "store", False)
    assert (plain.epochs, plain.updates, plain.augmentation) == (3, 9, "crop")
    assert result(replace(stored, store=None), dsa) == plain


def test_fewer_updates_may_be_asked_for():
    ticks = []
    stored = TrainingSet(IMAGES.float(), LABELS, store=made())
    assert result(stored, KD, updates=3, poll=lambda: ticks.append(1)).updates == len(ticks) == 3


def test_a_store_that_does_not_fit_is_refused():
    stored = TrainingSet(IMAGES.float(), LABELS, store=made())
    with pytest.raises(DataError, match=r"training set: label store: tensor 'order' .* \[4, 10\]"):
        result(replace(stored, images=stored.images[:10], labels=LABELS[:10]), KD)
    with pytest.raises(DataError, match=r"'values' .* must be \[4, 11, 4\]"):
        stored.check("training set", 4)


def test_nothing_is_compiled_for_it(monkeypatch):
    monkeypatch.setattr(paying, "COMPILE_PAYS", 1)
    training = TrainingSet(IMAGES.float(), LABELS)
    assert compiled_network("convnet:width=8,depth=1", training, CLASSES, KD, CPU) is None
    assert compiled_network("convnet:width=8,depth=1", training, CLASSES, PLAIN, CPU) is not None
