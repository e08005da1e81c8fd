import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from condense.errors import ConfigError
from condense.evaluation import Protocol, load_protocol, load_protocols

# epochs, batch, learned lr, augmentation: as in the papers and their code
PUBLISHED = {
    "mtt1000": (1000, 256, True, "dsa"),
    "dsa1000": (1000, 256, False, "dsa"),
    "dc300": (300, 256, False, "none"),
    "dc1000_mnist": (1000, 256, False, "dc"),
    "datadam1800": (1800, 64, False, "dsa"),
}
MIXED = {"idc1000": 0.5, "idc1000_mnist": 0.0, "ncfm2000": 0.5}
# epochs, temperature, augmentation, cutmix, mixup
DISTILLING = {
    "kd300": (300, 20, "standard", 1.0, None),
    "kd400": (400, 30, "crop_flip", 0.0, 0.8),
    "kd_small": (100, 20, "crop_flip", 0.0, 0.8),
}
FAIR = ("fair", "fair_updates")


def falls(protocol):
    """The epochs, or steps, whose learning rate is lower than that of the one before."""
    whole = protocol.epochs or protocol.updates
    rates = [protocol.rate(0.1, done, done) for done in range(whole)]
    return [done for done in range(1, whole) if rates[done] < rates[done - 1]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    protocol = load_protocol(name)
    found = (protocol.epochs, protocol.batch, protocol.learned_lr, protocol.augmentation)
    assert found == PUBLISHED[name]
    assert (protocol.lr, protocol.momentum, protocol.weight_decay) == (0.01, 0.9, 5e-4)
    assert falls(protocol) == [protocol.epochs // 2] and protocol.decay_factor == 0.1
    assert (protocol.optimizer, protocol.cutmix) == ("sgd", 0.0)


@pytest.mark.parametrize("name", MIXED)
def test_settings_of_the_papers_that_mix(name):
    protocol = load_protocol(name)
    assert (protocol.augmentation, protocol.cutmix) == ("composed", MIXED[name])
    if name == "ncfm2000":
        assert (protocol.epochs, protocol.batch, protocol.optimizer, protocol.lr) == (2000, 128, "adamw", 1e-3)
        assert (falls(protocol), protocol.decay_factor) == ([400, 800, 1200, 1600], 0.5)
        assert (protocol.momentum, protocol.weight_decay) == (0.9, 0.01)  # torch's own defaults for AdamW
    else:
        assert (protocol.epochs, protocol.batch, protocol.optimizer, protocol.lr) == (1000, 64, "sgd", 0.01)
        assert (falls(protocol), protocol.decay_factor) == ([2 * 1000 // 3, 5 * 1000 // 6], 0.2)
        assert (protocol.momentum, protocol.weight_decay) == (0.9, 5e-4)


@pytest.mark.parametrize("name", DISTILLING)
def test_settings_of_the_protocols_that_distil(name):
    protocol = load_protocol(name)
    found = (protocol.epochs, protocol.temperature, protocol.augmentation, protocol.cutmix, protocol.mixup)
    assert found == DISTILLING[name]
    assert (protocol.optimizer, protocol.lr, protocol.momentum, protocol.weight_decay) == ("adamw", 1e-3, 0.9, 0.01)
    assert (protocol.schedule, protocol.horizon, protocol.learned_lr, protocol.batch) == ("cosine", 1.0, False, 64)


def test_only_they_have_a_temperature():
    assert {name for name, protocol in load_protocols().items() if protocol.temperature is not None} == set(DISTILLING)


@pytest.mark.parametrize("name", FAIR)
def test_the_fair_protocols_choose_and_differ_in_nothing_else(name):
    protocol, other = load_protocol(name), load_protocol("quick")
    assert protocol.lrs == (0.003, 0.01, 0.03, 0.1) and protocol.learned_lr
    for key in ("batch", "optimizer", "momentum", "weight_decay", "decay_at", "decay_factor", "augmentation", "cutmix"):
        assert getattr(protocol, key) == getattr(other, key), key


def test_rates():
    fair, quick, fixed = load_protocol("fair"), load_protocol("quick"), load_protocol("dsa1000")
    assert fair.rates(None) == (0.003, 0.01, 0.03, 0.1)
    assert fair.rates(0.02) == (0.003, 0.01, 0.02, 0.03, 0.1)
    assert fair.rates(0.03) == fair.rates(None)
    assert (quick.rates(0.02), quick.rates(None)) == ((0.02,), (0.01,))
    assert fixed.rates(0.02) == (0.01,)


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
    updates = load_protocol("fair_updates")
    assert updates.on_full_data() == updates


@pytest.mark.parametrize(("epochs", "first"), [(1000, 500), (301, 151), (2, 1), (1, 1)])
def test_the_decay_comes_before_the_first_epoch_after_half(epochs, first):
    protocol = replace(load_protocol("quick"), epochs=epochs, batch=10)
    assert falls(protocol) == [done for done in (first,) if done < epochs]
    assert protocol.rate(0.1, first, 0) == 0.1 * 0.1 and protocol.rate(0.1, first - 1, 10**6) == 0.1
    assert (protocol.steps(10), protocol.steps(11)) == (epochs, 2 * epochs)


def test_updates_are_the_same_for_every_set():
    protocol = load_protocol("fair_updates")
    assert {protocol.steps(n) for n in (1, 10, 500, 50_000)} == {1000}
    assert falls(protocol) == [500] and protocol.rate(0.1, 10**6, 499) == 0.1


@pytest.mark.parametrize(("horizon", "last"), [(1.0, 0.0), (2.0, 0.5)])
def test_a_cosine_begins_at_the_rate_and_ends_near_its_part(horizon, last):
    cosine = {"schedule": "cosine", "horizon": horizon, "decay_at": (), "decay_factor": None}
    protocol = replace(load_protocol("quick"), epochs=1000, **cosine)
    rates = [protocol.rate(0.1, epoch, 7) for epoch in range(1000)]
    assert rates[0] == 0.1 and rates == sorted(rates, reverse=True)
    assert rates[500] == pytest.approx(0.05 * (1 + math.cos(math.pi / 2 / horizon)))
    assert rates[-1] == pytest.approx(0.1 * last, abs=2e-4)


def test_younger_keys_leave_the_identity_of_older_protocols_alone():
    quick = load_protocol("quick")
    identity = quick.identity()
    assert set(vars(quick)) - set(identity) == {"schedule", "horizon", "mixup", "temperature"}
    assert identity == {key: vars(quick)[key] for key in identity}
    assert replace(quick, temperature=4.0).identity() == identity | {"temperature": 4.0}


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
        {"optimizer": "adam"},
        {"cutmix": 1.5},
        {"decay_at": (0.5, 1.5)},
        {"lrs": (0.01, 0.0), "lr": None},
        {"lrs": (0.01,)},
        {"lr": None},
        {"updates": 3},
        {"epochs": None},
        {"epochs": None, "updates": 3},
        {"full_data_epochs": None},
        {"temperature": 0.0},
        {"mixup": 0.0},
        {"mixup": 0.8, "cutmix": 0.5},
        {"schedule": "linear"},
        {"schedule": "cosine"},
        {"horizon": 1.0},
        {"schedule": "cosine", "horizon": 1.0},  # with decay_at
        {"schedule": "cosine", "horizon": 0.5, "decay_at": (), "decay_factor": None},
        {"decay_at": ()},
        {"decay_factor": None},
        {"temperature": 4.0, "updates": 3, "epochs": None, "full_data_epochs": None},
    ],
)
def test_wrong_values_are_refused(change):
    with pytest.raises(ValidationError):
        replace(load_protocol("quick"), **change)


def test_unknown_keys_are_refused():
    values = vars(load_protocol("quick"))
    with pytest.raises(ValidationError, match="epoch_count"):
        Protocol(**{key: value for key, value in values.items() if not key.startswith("_")}, epoch_count=3)
