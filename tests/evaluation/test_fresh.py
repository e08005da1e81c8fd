"""Networks by name and by a user's own function: what is taken, what is refused, and that nothing is left behind."""

import functools

import pytest
import torch
from torch import nn

from condense.errors import ConfigError
from condense.evaluation import TrainingSet
from condense.evaluation.fresh import fresh_networks

CLASSES = 4
TRAINING = TrainingSet(torch.zeros(6, 1, 4, 4), torch.arange(6) % CLASSES)


class Mine(nn.Sequential):
    def __init__(self, outputs=CLASSES):
        super().__init__(nn.Flatten(), nn.Linear(16, outputs))


def two():
    return Mine()


def fresh(network, training=TRAINING):
    return fresh_networks(network, training, CLASSES)


def test_a_spec_is_a_network_of_the_package():
    name, make = fresh("mlp")
    assert name == "mlp" and make()(torch.zeros(2, 1, 4, 4)).shape == (2, CLASSES)
    with pytest.raises(ConfigError, match="Did you mean 'mlp'"):
        fresh("mlpp")


@pytest.mark.parametrize(
    ("factory", "name"),
    [(Mine, "Mine"), (two, "two"), (lambda: Mine(), "<lambda>"), (functools.partial(Mine), "partial")],
)
def test_a_function_gives_its_networks_and_its_name(factory, name):
    found, make = fresh(factory)
    assert found == name and isinstance(make(), Mine) and make() is not make()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: Mine(3), r"'<lambda>' gives \[2, 3\] for images \[2, 1, 4, 4\]; it must give logits \[2, 4\]"),
        (lambda: nn.Linear(4, 4), r"gives \[2, 1, 4, 4\] for images"),
        (lambda: nn.Linear(5, 4), r"does not take images \[2, 1, 4, 4\]: mat1 and mat2 shapes"),
        (lambda: nn.LSTM(16, 4), "does not take images"),
        (lambda: "mlp", "gives str, not a torch.nn.Module"),
        (Mine(), "'Mine' is one network, but each evaluation trains several new ones"),
        (7, "'int' is one network"),
    ],
)
def test_what_gives_no_logits_is_refused(network, message):
    with pytest.raises(ConfigError, match=message):
        fresh(network)


def test_a_tuple_is_no_logits():
    class Pair(Mine):
        def forward(self, x):
            return super().forward(x), None

    with pytest.raises(ConfigError, match="'Pair' gives tuple for images"):
        fresh(Pair)


def test_one_network_handed_out_again_and_again_is_refused():
    """The second test would be of a network that the first has trained."""
    one, shared = Mine(), nn.Linear(16, CLASSES)
    for again in (lambda: one, lambda: nn.Sequential(nn.Flatten(), shared)):
        with pytest.raises(ConfigError, match="the same parameters twice"):
            fresh(again)


def test_the_check_sees_preprocessed_images_and_leaves_the_global_generator_alone():
    raw = TrainingSet(TRAINING.images.byte(), TRAINING.labels, lambda images: images.float().expand(-1, 3, -1, -1))
    seen = []

    class Colour(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(48, CLASSES))
            self.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))

    before = torch.get_rng_state()
    fresh(Colour, raw)
    assert seen == [(2, 3, 4, 4)]
    assert torch.equal(torch.get_rng_state(), before)
