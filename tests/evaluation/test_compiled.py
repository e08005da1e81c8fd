"""Evaluation networks whose gradients are compiled, against the same networks without. The traces run uncompiled."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from condense import evaluation
from condense.augment import cutmix
from condense.evaluation import TrainingSet, evaluate, fresh, load_protocol, train_network
from condense.evaluation.fresh import compiled_network
from condense.networks import CompiledNetwork, create, paying, program
from condense.rng import generator, isolated

SHAPE = {"channels": 1, "size": 8, "classes": 3}
TRAINING = TrainingSet(torch.randn(12, 1, 8, 8, generator=generator(0, "test")), torch.arange(12) % 3)
QUICK = replace(load_protocol("quick"), epochs=4, batch=8, lr=0.05, networks=2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    monkeypatch.setattr(program.torch, "compile", lambda graph, **_: graph)


def found(network, protocol=QUICK):
    return compiled_network(network, TRAINING, 3, protocol, CPU)


def test_it_is_for_work_that_pays(monkeypatch):
    assert found("convnet:width=8") is None
    monkeypatch.setattr(paying, "COMPILE_PAYS", 1)
    assert found("convnet:width=8").name.startswith("convnet:width=8")
    monkeypatch.setattr(paying, "has_compiler", lambda: False)
    assert found("convnet:width=8") is None


def test_all_networks_of_the_protocol_count(monkeypatch):
    """4 epochs of 12 images on 2 networks."""
    work = 4 * 2 * 8 * 2 * paying.operations("mlp", **SHAPE)
    for needed, pays in ((work, True), (work + 1, False)):
        monkeypatch.setattr(paying, "COMPILE_PAYS", needed)
        assert (found("mlp") is not None) == pays


@pytest.mark.parametrize(
    "network", ["convnet:norm=batch", "resnet18:norm=batch", "torchvision:squeezenet1_1", lambda: nn.Flatten()]
)
def test_it_is_not_for_networks_that_train_otherwise_than_they_are_tested(network, monkeypatch):
    monkeypatch.setattr(paying, "COMPILE_PAYS", 1)
    assert found(network) is None


@pytest.mark.parametrize("protocol", ["quick", "ncfm2000", "fair_updates"])
@pytest.mark.parametrize("network", ["convnet:width=8,norm=instance", "vit:patch=4,dim=24,depth=1", "mlp"])
def test_it_trains_to_the_same_weights(network, protocol):
    """SGD or AdamW, labels that are mixed or not, a last batch that is smaller. In fp64, for AdamW divides by noise."""
    training = TrainingSet(TRAINING.images.double(), TRAINING.labels)
    used = replace(load_protocol(protocol), batch=8)
    used = replace(used, lr=0.01, lrs=(), **({"updates": 9} if used.updates else {"epochs": 4}))
    mix = (lambda x, y, draws: cutmix(x, y, 3, draws, 1.0)) if used.cutmix else None
    models = []
    for compiled in (None, CompiledNetwork(network, dtype=torch.float64, **SHAPE)):
        with isolated(0, "test"):
            model = create(network, **SHAPE).double()
        done = train_network(
            model, training, used, lr=0.01, augment=lambda x, _: x, mix=mix, seed=0, index=0, compiled=compiled
        )
        models.append((model, done))
    (plain, expected), (fast, done) = models
    assert done.updates == expected.updates
    torch.testing.assert_close(done.loss, expected.loss, rtol=1e-6, atol=1e-8)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_the_record_says_so(monkeypatch):
    test = evaluation.TestSet(TRAINING.images, TRAINING.labels)
    settings = {"classes": 3, "protocol": QUICK, "dsa": "none", "seed": 0, "device": CPU}
    plain = evaluate(TRAINING, test, "mlp", **settings)
    monkeypatch.setattr(fresh, "compiling_pays", lambda *_: True)
    fast = evaluate(TRAINING, test, "mlp", **settings)
    assert (plain.compiled, fast.compiled) == (False, True)
    assert fast.mean == pytest.approx(plain.mean, abs=0.1)
