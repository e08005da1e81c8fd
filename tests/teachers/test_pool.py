"""What a teacher says of images, against hand-written passes, module.train(), finite differences and loops."""

import copy

import numpy as np
import pytest
import torch
from problems import CLASSES, assert_same_bits, blobs
from safetensors.torch import load, save
from small_teachers import CONVNET, ON, SIZE, images, teacher
from torch import nn

from condense.data import Inputs, Split, fit_preprocessing
from condense.errors import ConfigError, DataError
from condense.networks import create
from condense.rng import generator
from condense.teachers import Teacher, held_out_accuracy

SPECS = [CONVNET, "resnet18:width=2,norm=batch", "vgg11:width=2,norm=batch", "torchvision:shufflenet_v2_x0_5"]


def bits(teacher):
    return {name: tensor.clone() for name, tensor in teacher.state().items()}


def test_becomes_frozen_and_in_evaluation_mode():
    module = create(CONVNET, **ON)
    Teacher(CONVNET, module, 0.5)
    assert not any(part.training for part in module.modules())
    assert not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("spec", SPECS)
def test_logits_of_both_modes_of_batch_norm(spec):
    judge, x = teacher(spec), images()
    in_training, before = copy.deepcopy(judge.module).train(), bits(judge)
    evaluated, batched = judge.logits(x), judge.logits(x, bn="batch")
    torch.testing.assert_close(evaluated, judge.module(x), rtol=0, atol=0)
    torch.testing.assert_close(batched, in_training(x).detach(), rtol=0, atol=0)
    assert (evaluated - batched).abs().max() > 1e-3
    assert not batched.requires_grad and not evaluated.requires_grad
    assert_same_bits(bits(judge), before)


def test_dropout_is_off_under_both():
    judge, x = teacher("torchvision:mobilenet_v2"), images()
    assert any(isinstance(part, nn.Dropout) for part in judge.module.modules())
    assert all(torch.equal(judge.logits(x, bn=bn), judge.logits(x, bn=bn)) for bn in ("eval", "batch"))


def test_the_network_of_batch_statistics_shares_the_parameters():
    judge = teacher()
    pairs = zip(judge.module.parameters(), judge._by_batch.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)


def test_running_statistics_take_any_number_of_images(monkeypatch):
    judge, x = teacher(), images(7)
    whole = judge.logits(x)
    monkeypatch.setattr("condense.teachers.pool.AT_ONCE", 3)
    torch.testing.assert_close(judge.logits(x), whole)
    torch.testing.assert_close(judge.logits(x[:1]), whole[:1])


def test_a_single_image_has_no_batch_statistics():
    with pytest.raises(ConfigError, match="single image"):
        teacher().logits(images(1), bn="batch")
    unnormed, x = teacher("convnet:width=4,depth=2,norm=instance"), images(1)
    assert torch.equal(unnormed.logits(x, bn="batch"), unnormed.logits(x))


def by_hand(judge, x):
    """Logits and R of the two blocks of the ConvNet, layer after layer and channel after channel."""
    distance, block = 0.0, 0
    for layer in judge.module.features:
        if isinstance(layer, nn.BatchNorm2d):
            mean, variance = layer.running_mean.numpy(), layer.running_var.numpy()
            channels = [x[:, c].numpy().ravel() for c in range(x.shape[1])]
            of_mean = np.sqrt(sum((v.mean() - m) ** 2 for v, m in zip(channels, mean, strict=True)))
            of_variance = np.sqrt(sum((v.var() - s) ** 2 for v, s in zip(channels, variance, strict=True)))
            distance += (10 if block == 0 else 1) * (of_mean + of_variance)
            block += 1
        x = layer(x)
    return judge.module.classifier(x.flatten(1)), distance


def test_describes_by_logits_and_the_distance_from_its_statistics():
    judge, x = teacher(), images()
    before = bits(judge)
    logits, distance = judge.describe(x)
    expected_logits, expected_distance = by_hand(judge, x)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-12, atol=1e-12)
    assert float(distance) == pytest.approx(expected_distance, rel=1e-12)
    assert_same_bits(bits(judge), before)
    assert not any(part._forward_hooks for part in judge.module.modules())


def test_layers_are_taken_in_the_order_in_which_they_run():
    """The one that is registered last runs first here, so it has the weight of the first."""

    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

        def forward(self, x):
            return self.second(self.first(x)).mean((2, 3))

    module = Reversed().double()
    module.first.running_mean.fill_(2.0)
    x = images()
    x = (x - x.mean()) / x.std(correction=0)
    _, distance = Teacher("reversed", module, None).describe(x)
    assert float(distance) == pytest.approx(10 * 2 + 2, rel=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_gradient_by_the_images_is_that_of_finite_differences(spec):
    """Along one direction; a step so small that hardly a ReLU changes its side."""
    judge, x = teacher(spec), images(3)
    weights = torch.randn(3, CLASSES, generator=generator(0, "weights"), dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator(0, "direction"), dtype=torch.float64)

    def loss(x):
        logits, distance = judge.describe(x)
        return (weights * logits).sum() + distance

    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    step = 1e-6
    slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_without_batch_norm_there_is_nothing_to_describe():
    with pytest.raises(ConfigError, match=r"convnet:width=4.*has no batch norm.*norm=batch, or torchvision's"):
        teacher("convnet:width=4,depth=2,norm=instance").describe(images())


@pytest.mark.parametrize("spec", SPECS)
def test_can_be_kept_and_read_again(spec):
    judge, x = teacher(spec), images()
    again = Teacher.from_state(judge.name, load(save(judge.state())), **ON, accuracy=0.5)
    assert (again.name, again.accuracy) == (judge.name, 0.5)
    assert_same_bits(bits(again), bits(judge))
    torch.testing.assert_close(again.describe(x), judge.describe(x), rtol=0, atol=0)
    assert torch.equal(again.logits(x, bn="batch"), judge.logits(x, bn="batch"))


def test_tensors_of_another_network_are_refused():
    with pytest.raises(DataError, match="not those of network 'convnet:width=4,depth=3"):
        Teacher.from_state("convnet:width=4,depth=3,norm=batch", teacher().state(), **ON, accuracy=None)


def test_held_out_accuracy_is_the_share_of_hits(monkeypatch):
    monkeypatch.setattr("condense.teachers.pool.AT_ONCE", 25)
    data = blobs()
    preprocessing, judge = fit_preprocessing("mean_std", data, None), teacher(dtype=torch.float32)
    found = held_out_accuracy(judge.module, Inputs(data.test, preprocessing), data.test.labels)
    guesses = judge.logits(preprocessing(data.test.images)).argmax(1)
    assert found == (guesses == data.test.labels).double().mean().item()


def test_without_held_out_images_there_is_no_accuracy():
    empty = Split(torch.zeros(0, 1, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    preprocessing = fit_preprocessing("mean_std", blobs(), None)
    assert held_out_accuracy(teacher().module, Inputs(empty, preprocessing), empty.labels) is None
