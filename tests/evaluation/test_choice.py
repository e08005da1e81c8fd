"""The choice of the learning rate: on validation data alone, by networks that do not count, and all of it reported."""

from dataclasses import replace

import pytest
import torch

from condense import evaluation
from condense.errors import ConfigError, DataError
from condense.evaluation import TrainingSet, evaluate, load_protocol
from condense.rng import generator

CLASSES = 4
FAIR = replace(load_protocol("fair"), epochs=8, networks=2, batch=16, augmentation="none")
FIXED = replace(FAIR, lr=0.03, lrs=())


def blobs(n, seed, spread=1.0):
    """One Gaussian blob per class around fixed centres, as images [n, 1, 4, 4]."""
    centres = torch.randn(CLASSES, 1, 4, 4, generator=generator(0, "centres"))
    labels = torch.arange(n) % CLASSES
    return centres[labels] + spread * torch.randn(n, 1, 4, 4, generator=generator(seed, "noise")), labels


TRAIN = TrainingSet(*blobs(40, 1))
TEST = evaluation.TestSet(*blobs(400, 2))
VALIDATION = evaluation.TestSet(*blobs(300, 3))


def watched(given, events, what):
    """The same data, which note each reading with the weights that it was of."""

    class Watched(evaluation.TestSet):
        def accuracy(self, predict, batch=512):
            events.append((what, torch.cat([parameter.detach().flatten() for parameter in predict.parameters()])))
            return super().accuracy(predict, batch)

    return Watched(given.images, given.labels)


def run(training=TRAIN, test=TEST, validation=VALIDATION, **changes):
    settings = {"classes": CLASSES, "protocol": FAIR, "dsa": "none", "seed": 0, "device": torch.device("cpu")}
    return evaluate(training, test, **{"network": "mlp", "validation": validation, **settings, **changes})


def test_the_rate_with_the_best_validation_accuracy_is_taken_and_all_are_reported():
    result = run(replace(TRAIN, lr=0.02))
    assert [pilot.lr for pilot in result.pilots] == [0.003, 0.01, 0.02, 0.03, 0.1]
    best = max(result.pilots, key=lambda pilot: pilot.accuracy)
    assert result.lr == best.lr and len({pilot.accuracy for pilot in result.pilots}) > 2
    assert result.n == len(result.values) == 2


def test_a_fixed_rate_has_no_pilots_and_needs_no_validation():
    result = run(protocol=FIXED, validation=None)
    assert (result.lr, result.pilots) == (0.03, ())


def test_the_choice_follows_the_validation_labels():
    """Validation data of which nothing but the untrained network's guesses is right: the smallest rate moves least."""
    right = run()
    assert right.lr > 0.003
    rolled = replace(VALIDATION, labels=(VALIDATION.labels + 1) % CLASSES)
    wrong = run(validation=rolled)
    assert wrong.lr < right.lr
    assert [p.accuracy for p in wrong.pilots] != [p.accuracy for p in right.pilots]


def test_of_equal_rates_the_lowest_is_taken():
    one_class = replace(VALIDATION, labels=torch.zeros_like(VALIDATION.labels), images=0 * VALIDATION.images)
    training = replace(TRAIN, labels=torch.zeros_like(TRAIN.labels))
    result = run(training, validation=one_class)
    assert {pilot.accuracy for pilot in result.pilots} == {1.0} and result.lr == 0.003


def test_the_counted_networks_are_those_of_the_chosen_rate_given_beforehand():
    """The pilots leave no trace: the same values as of a protocol that has this rate alone."""
    chosen = run()
    fixed = run(protocol=replace(FIXED, lr=chosen.lr), validation=None)
    assert chosen.values == fixed.values


def test_pilots_start_alike_and_elsewhere_than_every_counted_network():
    events = []
    validation, test = watched(VALIDATION, events, "validation"), watched(TEST, events, "test")
    run(validation=validation, test=test, protocol=replace(FAIR, lrs=(1e-12, 2e-12)))
    assert [what for what, _ in events] == ["validation"] * 2 + ["test"] * 2
    first, second, one, two = (weights for _, weights in events)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-8)
    for a, b in ((first, one), (first, two), (one, two)):
        assert float((a - b).abs().max()) > 0.01


def test_validation_is_read_before_the_test_set_once_for_each_rate():
    events = []
    validation, test = watched(VALIDATION, events, "validation"), watched(TEST, events, "test")
    run(validation=validation, test=test, n=3)
    assert [what for what, _ in events] == ["validation"] * 4 + ["test"] * 3


def test_test_labels_change_no_choice():
    right, wrong = run(), run(test=replace(TEST, labels=TEST.labels.roll(1)))
    assert (right.lr, right.pilots) == (wrong.lr, wrong.pilots) and right.values != wrong.values


def test_the_same_command_gives_the_same_numbers_and_seeds_matter():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert run() == first
    assert run(n=3).pilots == first.pilots and run(n=3).values[:2] == first.values
    assert run(seed=1).pilots != first.pilots


def test_the_full_data_chooses_too():
    protocol = replace(FAIR, full_data_epochs=3).on_full_data()
    result = run(protocol=protocol)
    assert result.epochs == 3 and len(result.pilots) == 4


@pytest.mark.parametrize("empty", [None, evaluation.TestSet(VALIDATION.images[:0], VALIDATION.labels[:0])])
def test_no_validation_split_is_an_error_before_any_training(empty):
    def preprocess(_):
        raise AssertionError("training began")

    training = replace(TRAIN, preprocess=preprocess)
    with pytest.raises(ConfigError, match=r"protocol 'fair' chooses .* Set validation above 0"):
        run(training, validation=empty)
    with pytest.raises(DataError, match=r"validation images \[1, 5, 5\]"):
        run(training, validation=evaluation.TestSet(torch.zeros(2, 1, 5, 5), torch.tensor([0, 1])))
    with pytest.raises(DataError, match="validation set: labels lie in"):
        run(training, validation=replace(VALIDATION, labels=VALIDATION.labels + 1))
