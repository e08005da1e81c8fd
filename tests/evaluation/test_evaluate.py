"""The evaluator on sets of a few pixels, and its optimisers against ones written out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from condense import evaluation
from condense.errors import ConfigError, DataError
from condense.evaluation import TrainingSet, evaluate, load_protocol, train, train_network
from condense.rng import generator

QUICK = replace(load_protocol("quick"), epochs=10, networks=2, batch=16, lr=0.05)
CLASSES = 4


def blobs(n, seed, spread=0.3):
    """One Gaussian blob per class around fixed centres, as images [n, 1, 4, 4]."""
    centres = torch.randn(CLASSES, 1, 4, 4, generator=generator(0, "centres"))
    labels = torch.arange(n) % CLASSES
    return centres[labels] + spread * torch.randn(n, 1, 4, 4, generator=generator(seed, "noise")), labels


TRAIN = TrainingSet(*blobs(40, 1))
TEST = evaluation.TestSet(*blobs(1000, 2))


def run(training=TRAIN, test=TEST, **changes):
    settings = {"classes": CLASSES, "protocol": QUICK, "dsa": "none", "seed": 0, "device": torch.device("cpu")}
    return evaluate(training, test, **{"network": "mlp", **settings, **changes})


def weights(training=TRAIN, labels=TEST.labels, **changes):
    """The weights of every network at the time it read the test set."""
    kept = []

    class Watched(evaluation.TestSet):
        def accuracy(self, predict, batch=512):
            assert not predict.training
            kept.append({name: tensor.clone() for name, tensor in predict.state_dict().items()})
            return super().accuracy(predict, batch)

    run(training, Watched(TEST.images, labels), **changes)
    return kept


def same(a, b):
    return all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


def tiny(n, labels=None):
    """n random images [n, 1, 1, 3] in double precision for a linear network with 4 outputs."""
    images = torch.randn(n, 1, 1, 3, dtype=torch.float64, generator=generator(3, "tiny"))
    return TrainingSet(images, torch.arange(n) % CLASSES if labels is None else labels)


def linear(seed=5):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, CLASSES, dtype=torch.float64))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator(seed, "linear"))
    return model


def plain_train(model, training, protocol):
    train_network(model, training, protocol, lr=protocol.lr, augment=lambda x, _: x, seed=7, index=2)
    return model[1].weight.detach().numpy(), model[1].bias.detach().numpy()


# the optimiser


def oracle(model, training, protocol, forget_momentum=False):
    """Softmax regression by v <- mu v + g + wd p, p <- p - lr v, written out in numpy."""
    x, y = training.images.flatten(1).numpy(), np.eye(CLASSES)[training.labels.numpy()]
    W, b = model[1].weight.detach().numpy().copy(), model[1].bias.detach().numpy().copy()
    vW, vb, lr = np.zeros_like(W), np.zeros_like(b), protocol.lr
    for epoch in range(protocol.epochs):
        if epoch == math.ceil(protocol.decay_at[0] * protocol.epochs):
            lr *= protocol.decay_factor
            if forget_momentum:
                vW, vb = np.zeros_like(W), np.zeros_like(b)
        for gW, gb in gradients(x, y, lambda: (W, b), protocol, epoch):  # noqa: B023 - read before they move on
            vW = protocol.momentum * vW + gW + protocol.weight_decay * W
            vb = protocol.momentum * vb + gb + protocol.weight_decay * b
            W, b = W - lr * vW, b - lr * vb
    return W, b


def gradients(x, y, weights, protocol, epoch):
    """Those of the batches of an epoch, each at the weights of its time."""
    order = torch.randperm(len(x), generator=generator(7, "evaluation.order.2", epoch)).numpy()
    for start in range(0, len(x), protocol.batch):
        W, b = weights()
        xb, yb = x[order[start : start + protocol.batch]], y[order[start : start + protocol.batch]]
        p = np.exp(xb @ W.T + b)
        error = (p / p.sum(1, keepdims=True) - yb) / len(xb)
        yield error.T @ xb, error.sum(0)


SGD = replace(QUICK, epochs=5, batch=4, lr=0.3, weight_decay=0.02)


def test_training_is_one_sgd_whose_momentum_survives_the_decay():
    training = tiny(10)  # batches of 4, 4 and 2
    expected, forgetful = oracle(linear(), training, SGD), oracle(linear(), training, SGD, forget_momentum=True)
    weight, bias = plain_train(linear(), training, SGD)
    np.testing.assert_allclose(weight, expected[0], rtol=1e-12)
    np.testing.assert_allclose(bias, expected[1], rtol=1e-12)
    assert np.abs(weight - forgetful[0]).max() > 1e-3


def test_adamw_with_two_decays():
    """Decoupled weight decay, bias-corrected moments, eps 1e-8, written out in numpy; beta_1 is the momentum."""
    protocol = replace(SGD, optimizer="adamw", momentum=0.8, lr=0.05, decay_at=(0.2, 0.6), decay_factor=0.5)
    training, model = tiny(10), linear()
    x, y = training.images.flatten(1).numpy(), np.eye(CLASSES)[training.labels.numpy()]
    parameters = [model[1].weight.detach().numpy().copy(), model[1].bias.detach().numpy().copy()]
    m, v, step = [0.0, 0.0], [0.0, 0.0], 0
    for epoch in range(5):
        lr = 0.05 * 0.5 ** ((epoch >= 1) + (epoch >= 3))
        for found in gradients(x, y, lambda: parameters, protocol, epoch):
            step += 1
            for k, gradient in enumerate(found):
                m[k] = 0.8 * m[k] + 0.2 * gradient
                v[k] = 0.999 * v[k] + 0.001 * gradient**2
                update = m[k] / (1 - 0.8**step) / (np.sqrt(v[k] / (1 - 0.999**step)) + 1e-8)
                parameters[k] = parameters[k] * (1 - lr * 0.02) - lr * update
    weight, bias = plain_train(linear(), training, protocol)
    np.testing.assert_allclose(weight, parameters[0], rtol=1e-10)
    np.testing.assert_allclose(bias, parameters[1], rtol=1e-10)


BY_UPDATES = replace(SGD, epochs=None, full_data_epochs=None, updates=7)


def test_updates_are_counted_and_stop_within_an_epoch():
    training, model = tiny(10), linear()
    x, y = training.images.flatten(1).numpy(), np.eye(CLASSES)[training.labels.numpy()]
    W, b = model[1].weight.detach().numpy().copy(), model[1].bias.detach().numpy().copy()
    vW, vb, steps = 0.0, 0.0, iter(range(7))
    for epoch in range(3):
        for (gW, gb), step in zip(gradients(x, y, lambda: (W, b), SGD, epoch), steps, strict=False):  # noqa: B023
            lr = 0.3 * (0.1 if step >= 4 else 1)  # ceil(0.5 * 7)
            vW, vb = 0.9 * vW + gW + 0.02 * W, 0.9 * vb + gb + 0.02 * b
            W, b = W - lr * vW, b - lr * vb
    weight, bias = plain_train(linear(), training, BY_UPDATES)
    np.testing.assert_allclose(weight, W, rtol=1e-12)
    np.testing.assert_allclose(bias, b, rtol=1e-12)


@pytest.mark.parametrize(("n", "updates"), [(10, 15), (8, 10), (4, 5), (1, 5)])
def test_the_updates_of_a_network_are_reported(n, updates):
    def count(protocol, make=linear):
        settings = {"lr": 0.1, "augment": lambda x, _: x, "seed": 0, "index": 0}
        return train_network(make(), tiny(n), protocol, **settings).updates

    assert count(SGD) == SGD.steps(n) == updates
    assert count(BY_UPDATES) == BY_UPDATES.steps(n) == 7
    result = run(protocol=QUICK)
    assert (result.updates, result.epochs) == (30, 10)  # 40 images in batches of 16
    result = run(protocol=replace(QUICK, epochs=None, full_data_epochs=None, updates=7))
    assert (result.updates, result.epochs) == (7, None)


def test_one_hot_probabilities_train_as_hard_labels():
    hard = tiny(10)
    soft = replace(hard, labels=torch.eye(CLASSES, dtype=torch.float64)[hard.labels])
    np.testing.assert_allclose(plain_train(linear(), soft, SGD)[0], plain_train(linear(), hard, SGD)[0], rtol=1e-12)


@pytest.mark.parametrize(("norm", "sizes"), [(nn.BatchNorm1d, [4]), (nn.LayerNorm, [4, 1])])
def test_batch_norm_never_sees_a_batch_of_one(norm, sizes):
    seen = []
    model = nn.Sequential(nn.Flatten(), norm(3, dtype=torch.float64), nn.Linear(3, CLASSES, dtype=torch.float64))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    train_network(model, tiny(5), SGD, lr=0.1, augment=lambda x, _: x, seed=0, index=0)
    assert seen == sizes * SGD.epochs


def test_batch_norm_refuses_a_single_image():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, CLASSES))
    with pytest.raises(DataError, match="single image"):
        train_network(model, tiny(1), SGD, lr=0.1, augment=lambda x, _: x, seed=0, index=0)


# the number


def test_separable_classes_are_learned():
    result = run()
    assert result.mean > 0.99
    assert (result.protocol, result.epochs, result.n, len(result.values)) == ("quick", 10, 2, 2)
    assert (result.lr, result.augmentation, result.diverged) == (0.05, "none", 0)
    assert result.network.startswith("mlp")


def test_permuted_test_labels_give_chance():
    order = torch.randperm(len(TEST), generator=generator(9, "permutation"))
    assert run(test=replace(TEST, labels=TEST.labels[order])).mean == pytest.approx(1 / CLASSES, abs=0.05)


def test_real_images_are_preprocessed_on_the_fly():
    def preprocess(images):
        return images.float() / 64 - 2

    images, labels = blobs(40, 1)
    raw = replace(TRAIN, images=((images + 2) * 64).clamp(0, 255).byte(), preprocess=preprocess)
    ready = TrainingSet(preprocess(raw.images), labels)
    protocol = replace(QUICK, full_data_epochs=3).on_full_data()
    assert same(weights(raw, protocol=protocol), weights(ready, protocol=protocol))
    assert run(raw, protocol=protocol).epochs == 3


def test_the_learned_learning_rate_is_used_where_the_protocol_says_so():
    learned = replace(TRAIN, lr=0.02)
    assert run(learned).lr == 0.02
    assert same(weights(learned), weights(protocol=replace(QUICK, lr=0.02)))
    fixed = replace(QUICK, learned_lr=False)
    assert run(learned, protocol=fixed).lr == QUICK.lr
    assert same(weights(learned, protocol=fixed), weights(protocol=fixed))


def test_divergence_is_counted_and_its_accuracy_kept():
    result = run(protocol=replace(QUICK, lr=1e30))
    assert result.diverged == result.n == 2
    assert all(0 <= value <= 1 for value in result.values)


def test_one_network_has_no_interval():
    assert run(n=1).ci95 is None


# the augmentation


def test_dsa_strategy_is_used_by_protocols_with_dsa_alone():
    plain, cropped = weights(), weights(dsa="crop")
    assert not same(plain, cropped)
    no_augmentation = replace(QUICK, augmentation="none")
    assert same(plain, weights(dsa="crop", protocol=no_augmentation))
    assert run(dsa="crop", n=1).augmentation == "crop"
    assert run(dsa="crop", n=1, protocol=no_augmentation).augmentation == "none"


def test_dcs_augmentation_is_used_by_its_protocol():
    protocol = replace(QUICK, augmentation="dc")
    assert run(dsa="crop", n=1, protocol=protocol).augmentation == "dc:crop_scale_rotate"
    assert not same(weights(protocol=protocol), weights())
    assert same(weights(protocol=protocol), weights(protocol=protocol, dsa="crop"))


def test_test_images_are_not_augmented():
    tested = []

    def preprocess(images):
        tested.append(images)
        return images

    run(test=replace(TEST, preprocess=preprocess), dsa="color_crop_cutout", n=1)
    assert torch.equal(torch.cat(tested), TEST.images)


# the test set: once per network, after its training, and never a cause of anything


def test_the_test_set_is_read_once_per_network_after_training():
    events = []

    class Counted(evaluation.TestSet):
        def accuracy(self, predict, batch=512):
            events.append("test")
            return super().accuracy(predict, batch)

    def preprocess(images):
        events.append("train")
        return images

    run(replace(TRAIN, preprocess=preprocess), Counted(TEST.images, TEST.labels), n=3)
    batches_of_16 = 3
    assert events == (["train"] * batches_of_16 * QUICK.epochs + ["test"]) * 3


def test_test_labels_change_no_weight():
    assert same(weights(), weights(labels=TEST.labels.roll(1)))


# randomness


def test_values_repeat_and_seeds_matter():
    hard = {"training": TrainingSet(*blobs(40, 1, spread=2)), "test": evaluation.TestSet(*blobs(1000, 2, spread=2))}
    torch.manual_seed(1)
    first = run(**hard, dsa="color_crop")
    torch.manual_seed(2)
    assert run(**hard, dsa="color_crop") == first
    assert run(**hard, dsa="color_crop", seed=1).values != first.values
    assert run(**hard, dsa="color_crop", n=4).values[:2] == first.values
    assert 0.3 < first.mean < 0.9  # neither chance nor perfect: equal values mean something


def test_the_global_generators_are_left_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global one
    run(dsa="color_crop_cutout_flip_scale_rotate")
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_dropout_has_an_address_too():
    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES), nn.Dropout(0.5))

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(network=network)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, weights(network=network))


def test_more_networks_leave_the_first_ones_as_they_are():
    four = weights(n=4)
    assert same(four[:2], weights(n=2))
    assert not same(four[:1], four[1:2])


def test_networks_order_and_augmentation_do_not_depend_on_the_set(monkeypatch):
    starts, seeds, inputs = [], [], []
    original = train.train_network

    def watched(model, training, protocol, *, augment, **settings):
        def seen(images, gen):
            seeds.append(gen.initial_seed())
            inputs.append(augment(images, gen))
            return inputs[-1]

        starts.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        return original(model, training, protocol, augment=seen, **settings)

    monkeypatch.setattr(train, "train_network", watched)
    run(dsa="crop")
    run(replace(TRAIN, images=TRAIN.images * 2, lr=0.2), dsa="crop")
    assert torch.equal(starts[0], starts[2]) and torch.equal(starts[1], starts[3])
    half = len(inputs) // 2
    assert all(torch.equal(2 * a, b) for a, b in zip(inputs[:half], inputs[half:], strict=True))
    # but every network starts elsewhere, and every step of every network has a draw of its own
    assert not torch.equal(starts[0], starts[1])
    assert seeds[:half] == seeds[half:] and len(set(seeds[:half])) == half


# bad input fails before any training

LARGER = evaluation.TestSet(torch.ones(2, 1, 5, 5), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (DataError, "training set: labels lie in", {"classes": 3}),
        (DataError, "test set: labels lie in", {"test": replace(TEST, labels=TEST.labels + 1)}),
        (
            DataError,
            r"\[1, 4, 4\] and test images \[1, 5, 5\]",
            {"test": LARGER},
        ),
        (ConfigError, "0 networks", {"n": 0}),
        (ConfigError, "Did you mean 'mlp'", {"network": "mlpp"}),
        (ConfigError, "operator", {"dsa": "color_corp"}),
    ],
)
def test_bad_input_is_refused_before_training(error, message, changes):
    def preprocess(_):
        raise AssertionError("training began")

    with pytest.raises(error, match=message):
        run(replace(TRAIN, preprocess=preprocess), **changes)
