from dataclasses import replace

import pytest
from pydantic import ValidationError

from condense.errors import ConfigError
from condense.evaluation import Protocol, load_protocol, load_protocols

# epochs, learned lr, augmentation: as in the papers and their code
PUBLISHED = {
    "mtt1000": (1000, True, "dsa"),
    "dsa1000": (1000, False, "dsa"),
    "dc300": (300, False, "none"),
    "dc1000_mnist": (1000, False, "dc"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    protocol = load_protocol(name)
    assert (protocol.epochs, protocol.learned_lr, protocol.augmentation) == PUBLISHED[name]
    assert (protocol.batch, protocol.lr, protocol.momentum, protocol.weight_decay) == (256, 0.01, 0.9, 5e-4)
    assert (protocol.decay_epoch, protocol.decay_factor) == (protocol.epochs // 2, 0.1)


def test_every_protocol_says_where_it_comes_from():
    protocols = load_protocols()
    assert {"quick", *PUBLISHED} <= set(protocols)
    for name, protocol in protocols.items():
        assert protocol.name == name
        assert protocol.summary and protocol.notes
        assert "arXiv" in protocol.source or "no paper" in protocol.source
        assert protocol.networks >= 5  # fewer give no useful interval


def test_full_data_changes_the_epochs_alone():
    protocol = replace(load_protocol("quick"), full_data_epochs=7)
    assert protocol.on_full_data() == replace(protocol, epochs=7)


@pytest.mark.parametrize(("epochs", "first"), [(1000, 500), (301, 151), (2, 1), (1, 1)])
def test_decay_epoch_is_the_first_after_half(epochs, first):
    assert replace(load_protocol("quick"), epochs=epochs).decay_epoch == first


def test_unknown_protocol_offers_the_closest():
    with pytest.raises(ConfigError, match=r"'mtt100'.*'mtt1000'.*Allowed: .*quick"):
        load_protocol("mtt100")


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch": 1},
        {"lr": 0.0},
        {"lr": float("inf")},
        {"momentum": 1.5},
        {"networks": 2.5},
        {"augmentation": "randaugment"},
        {"learned_lr": "yes"},
    ],
)
def test_wrong_values_are_refused(change):
    with pytest.raises(ValidationError):
        replace(load_protocol("quick"), **change)


def test_unknown_keys_are_refused():
    values = vars(load_protocol("quick"))
    with pytest.raises(ValidationError, match="epoch_count"):
        Protocol(**{key: value for key, value in values.items() if not key.startswith("_")}, epoch_count=3)
