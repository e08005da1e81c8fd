"""DSA's operators one after another."""

import pytest
import torch
from oracles import dsa as oracle

from condense.augment import FULL_STRATEGY, composed
from condense.errors import ConfigError
from condense.rng import generator


@pytest.mark.parametrize(
    ("strategy", "stages"),
    [
        (FULL_STRATEGY, [("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",)]),
        ("color_crop_cutout", [("color",), ("crop",), ("cutout",)]),
        ("color_crop", [("color",), ("crop",)]),
        ("rotate_crop_flip", [("flip",), ("crop", "rotate")]),
        ("cutout", [("cutout",)]),
        ("none", []),
        ("", []),
    ],
)
def test_the_stages_and_their_order(strategy, stages):
    """Flip and colour, then one of three, then cutout, whatever the order of the names."""
    assert [stage.operations for stage in composed(strategy)] == stages


def test_an_unknown_operator_is_refused():
    with pytest.raises(ConfigError, match="unknown operator 'colour'"):
        composed("colour_crop")


def test_every_stage_is_applied_to_what_the_stage_before_made():
    """colour, crop, cutout on one image, against the oracle's three in a row."""
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, generator=generator(0, "images"))
    draws = generator(0, "draw")
    expected, actual = x[0].numpy(), x
    for stage in composed("color_crop_cutout"):
        record = stage.sample(draws, 1, shared=True)
        actual = stage.apply(actual, record)
        expected = oracle.OPERATIONS[record.operation](expected, record.u[0].tolist())
    torch.testing.assert_close(actual[0], torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
    assert float(actual.eq(0).double().mean()) > 0.1, "cutout comes last, so what it covers is 0"


def test_the_middle_stage_draws_one_of_its_three_evenly():
    middle = composed(FULL_STRATEGY)[2]
    drawn = [middle.sample(generator(0, "stage", index), 1).operation for index in range(600)]
    assert {name: drawn.count(name) > 150 for name in drawn} == {"crop": True, "scale": True, "rotate": True}
