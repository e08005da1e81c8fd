"""Randomness by address: the bits are part of every published result, so they are pinned here."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from condense.rng import address, generator, isolated

PINNED = {
    (0, "init", 0): 4711494009563676394,
    (1, "init", 0): 909660327736652540,
    (0, "init", 1): 2495076993031051649,
    (0, "init.images", 7): 2173321882920563164,
    (2**40, "expert.3.epoch", 12): 3089174217754564484,
}


@pytest.mark.parametrize(("where", "seed"), PINNED.items())
def test_addresses_stay_what_they_are(where, seed):
    """Another value here means that no run, expert or evaluation of an earlier version can be repeated."""
    assert address(*where) == seed


def test_draws_stay_what_they_are():
    draws = generator(0, "init")
    assert torch.randint(1000, (6,), generator=draws).tolist() == [283, 273, 86, 958, 461, 816]
    assert torch.randperm(8, generator=draws).tolist() == [5, 1, 0, 6, 4, 3, 2, 7]
    uniform, normal = torch.rand(3, generator=draws), torch.randn(3, generator=draws)
    torch.testing.assert_close(uniform, torch.tensor([0.36728769540786743, 0.07213103771209717, 0.9171551465988159]))
    torch.testing.assert_close(normal, torch.tensor([1.4953349828720093, 1.04745614528656, 0.45209285616874695]))


def test_every_part_of_the_address_counts():
    streams = ["a", "b", "ab", "a.1", "a1", "", "expert", "expert.init"]
    seeds = {address(seed, stream, index) for seed in range(20) for stream in streams for index in range(200)}
    assert len(seeds) == 20 * len(streams) * 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_addresses_are_unrelated():
    """First draws of neighbours look like those of one good generator; each bit of the seed is set half the time."""
    first = np.array([float(torch.rand((), generator=generator(0, "a", index))) for index in range(2000)])
    assert abs(first.mean() - 0.5) < 0.02 and abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.07
    bits = np.array([[address(0, "a", index) >> bit & 1 for bit in range(63)] for index in range(2000)])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.06


def test_the_order_of_calls_does_not_matter():
    where = [(seed, stream, index) for seed in (0, 1) for stream in ("a", "b") for index in (0, 1)]
    forwards = {w: torch.rand(3, generator=generator(*w)) for w in where}
    held = [generator(*w) for w in where]
    torch.rand(1000, generator=held[0])
    for w, draws in zip(reversed(where), reversed(held[1:]), strict=False):
        assert torch.equal(torch.rand(3, generator=draws), forwards[w])
    assert len({tuple(values.tolist()) for values in forwards.values()}) == len(where)


def test_a_generator_is_on_the_cpu_and_leaves_the_global_ones_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    draws = generator(0, "a")
    torch.rand(3, generator=draws)
    assert draws.device == torch.device("cpu")
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_isolated_seeds_the_block_and_puts_the_old_state_back():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with isolated(0, "network"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(inside, torch.rand(3, generator=generator(0, "network")))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_isolated_puts_the_old_state_back_after_an_exception(error):
    before = torch.get_rng_state()
    with pytest.raises(error), isolated(0, "network"):
        torch.rand(3)
        raise error
    assert torch.equal(torch.get_rng_state(), before)


def test_isolated_blocks_may_be_nested():
    with isolated(0, "outer"):
        expected = torch.rand(4)
    with isolated(0, "outer"):
        first = torch.rand(2)
        with isolated(0, "inner"):
            torch.rand(5)
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), expected)


def test_isolated_decides_a_modules_weights():
    weights = []
    for noise in (1, 50):
        torch.rand(noise)
        with isolated(0, "network", 2):
            weights.append(nn.Linear(4, 4).weight)
    assert torch.equal(*weights)
