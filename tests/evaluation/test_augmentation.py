"""What a protocol does to a training batch: each choice against the functions of condense.augment."""

from dataclasses import replace

import pytest
import torch

from condense.augment import DSA, FULL_STRATEGY, crop_flip, cutmix, mixup, standard
from condense.augment.dc import crop_scale_rotate
from condense.errors import ConfigError
from condense.evaluation import load_protocol
from condense.evaluation.augmentation import augmentation, mixing
from condense.rng import generator

X = torch.randn(6, 3, 8, 8, generator=generator(0, "images"))
Y = torch.arange(6) % 4


def made(name, strategy=FULL_STRATEGY):
    title, augment = augmentation(replace(load_protocol("quick"), augmentation=name), strategy)
    return title, augment(X, generator(1, "draw"))


def composed(strategy, draws):
    x = X
    for stage in strategy:
        x = DSA(stage).augment(x, draws)
    return x


def draws():
    return generator(1, "draw")


@pytest.mark.parametrize(
    ("name", "strategy", "title", "expected"),
    [
        ("none", FULL_STRATEGY, "none", lambda: X),
        ("dsa", FULL_STRATEGY, FULL_STRATEGY, lambda: DSA(FULL_STRATEGY).augment(X, draws())),
        ("dsa", "color_crop", "color_crop", lambda: DSA("color_crop").augment(X, draws())),
        ("dc", FULL_STRATEGY, "dc:crop_scale_rotate", lambda: crop_scale_rotate(X, draws())),
        ("crop_flip", FULL_STRATEGY, "crop_flip", lambda: crop_flip(X, draws(), mirrored=True)),
        ("crop_flip", "color", "crop_flip without flip", lambda: crop_flip(X, draws(), mirrored=False)),
        ("standard", FULL_STRATEGY, "standard", lambda: standard(X, draws(), mirrored=True)),
        ("standard", "none", "standard without flip", lambda: standard(X, draws(), mirrored=False)),
        (
            "composed",
            FULL_STRATEGY,
            "composed:flip_color_crop/scale/rotate",
            lambda: composed(("flip", "color", "crop_scale_rotate"), draws()),
        ),
        ("composed", "color_cutout_crop", "composed:color_crop", lambda: composed(("color", "crop"), draws())),
    ],
)
def test_each_augmentation_is_the_function_of_its_name(name, strategy, title, expected):
    found, images = made(name, strategy)
    assert found == title
    assert torch.equal(images, expected())
    assert name == "none" or not torch.equal(images, X)


def test_an_unknown_operator_is_refused_whatever_the_protocol():
    for name in ("none", "dsa", "composed", "crop_flip", "standard", "dc"):
        with pytest.raises(ConfigError, match="unknown operator 'colour'"):
            made(name, "colour_crop")


def test_mixing_is_cutmix_with_the_probability_of_the_protocol():
    quick = load_protocol("quick")
    assert mixing(quick, 4) is None
    mix = mixing(replace(quick, cutmix=0.5), 4)
    changed = 0
    for index in range(40):
        images, labels = mix(X, Y, generator(2, "mix", index))
        expected = cutmix(X, Y, 4, generator(2, "mix", index), 0.5)
        assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])
        changed += not torch.equal(images, X)
    assert 8 < changed < 32


def test_mixing_is_mixup_with_the_parameter_of_the_protocol():
    mix = mixing(replace(load_protocol("quick"), mixup=0.8), 4)
    for index in range(4):
        images, labels = mix(X, Y, generator(2, "mix", index))
        expected = mixup(X, Y, 4, generator(2, "mix", index), 0.8)
        assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])
