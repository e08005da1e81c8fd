"""Samples, ranks, and what of a bench is read; the statistics against scipy."""

import json
import shutil

import pytest
from fabricated_bench import fabricate
from scipy import stats

from condense.bench.results import Results, Sample, mean_sample, ranks
from condense.errors import ConfigError, RunError

A = Sample({0: (0.5, 0.6), 1: (0.7, 0.7), 2: (0.6, 0.8)})
B = Sample({0: (0.4, 0.5), 1: (0.65, 0.6), 2: (0.55, 0.6)})


def test_with_several_seeds_a_point_is_a_set():
    assert (A.sets, A.networks, A.varied) == (3, 2, "sets")
    assert A.points == pytest.approx({0: 0.55, 1: 0.7, 2: 0.7})
    expected = stats.t.interval(0.95, 2, 0.65, stats.sem([0.55, 0.7, 0.7]))
    assert (A.interval[0] - A.interval[1], A.interval[0] + A.interval[1]) == pytest.approx(expected)


def test_with_one_seed_a_point_is_a_network():
    one = Sample({4: (0.5, 0.6, 0.7)})
    assert (one.sets, one.networks, one.varied, one.points) == (1, 3, "networks", {0: 0.5, 1: 0.6, 2: 0.7})
    assert Sample({4: (0.5,)}).interval == (0.5, None)


def test_differences_are_paired_by_seed():
    expected = stats.ttest_rel([0.55, 0.7, 0.7], [0.45, 0.625, 0.575]).confidence_interval(0.95)
    mean, half = A.minus(B)
    assert (mean - half, mean + half) == pytest.approx((expected.low, expected.high))


def test_pairs_are_of_the_seeds_that_both_have():
    part = Sample({2: (0.5,), 0: (0.4,), 9: (0.0,)})
    assert A.minus(part)[0] == pytest.approx((0.15 + 0.2) / 2)
    assert A.minus(Sample({7: (0.5,), 8: (0.5,)})) is None
    assert A.minus(Sample({0: (0.5, 0.5)})) is None  # sets are not networks
    assert Sample({0: (0.5, 0.6)}).minus(Sample({0: (0.4, 0.4)}))[0] == pytest.approx(0.15)


def test_a_rank_counts_those_that_are_better_beyond_doubt():
    """Against the paired t test: an interval above 0 is p < 0.05 and a positive difference."""
    samples = {
        "best": Sample({0: (0.90,), 1: (0.92,), 2: (0.91,)}),
        "close": Sample({0: (0.89,), 1: (0.93,), 2: (0.90,)}),
        "worse": Sample({0: (0.80,), 1: (0.81,), 2: (0.82,)}),
        "noisy": Sample({0: (0.30,), 1: (0.99,), 2: (0.60,)}),
        "one": Sample({0: (0.99, 0.99, 0.98)}),
    }
    expected = {}
    for name, sample in samples.items():
        others = [other for other in samples.values() if sample.sets > 1 and other.sets > 1 and other is not sample]
        tests = [stats.ttest_rel(list(other.points.values()), list(sample.points.values())) for other in others]
        better = sum(bool(test.pvalue < 0.05 and test.statistic > 0) for test in tests)
        expected[name] = 1 + better if sample.sets > 1 else None
    assert ranks(samples) == expected
    assert expected == {"best": 1, "close": 1, "worse": 3, "noisy": 1, "one": None}


def test_a_mean_over_networks_keeps_sets_apart():
    other = Sample({0: (0.1, 0.2), 1: (0.3, 0.5)})
    assert mean_sample([A, other]).values == {0: pytest.approx((0.3, 0.4)), 1: pytest.approx((0.5, 0.6))}


def test_what_is_done_failed_and_missing(tmp_path):
    failed, missing = "digits-mtt-ipc1-seed1", "digits-dm-ipc10-seed0"
    results = Results(fabricate(tmp_path / "bench", failed=[failed], missing=[missing]))
    assert len(results.done) == 28 and list(results.errors) == [failed] and results.missing == [missing]
    assert results.errors[failed] == "exit code 1\nerror: nothing worked"
    assert [cell.seed for cell in results.finished("digits", 1, "mtt")] == [0, 2]
    samples = results.samples("digits", 1, 0)
    assert list(samples) == ["dm", "mtt", "dm-flip", "random", "kmeans", "full data"]
    assert (samples["mtt"].sets, samples["dm"].sets, samples["full data"].sets) == (2, 3, 3)


def test_the_numbers_are_those_of_the_runs(tmp_path):
    results = Results(fabricate(tmp_path / "bench"))
    result = json.loads((tmp_path / "bench" / "cells" / "digits-random-ipc10-seed1" / "result.json").read_text())
    for index in range(3):
        samples = results.samples("digits", 10, index)
        assert samples["random"].values[1] == tuple(result["evaluations"][index]["values"])
        assert samples["full data"].values[1] == tuple(result["baselines"]["full data"][index]["values"])


def test_other_architectures_are_those_of_other_families(tmp_path):
    results = Results(fabricate(tmp_path / "bench", networks=["convnet", "mlp", "convnet:width=64", "resnet18"]))
    assert results.transfer == [1, 3]  # the sets were made with convnet:width=32


def test_a_folder_without_a_bench(tmp_path):
    with pytest.raises(RunError, match="is no bench"):
        Results(tmp_path)


def test_damage_is_named(tmp_path):
    bench = fabricate(tmp_path / "bench", seeds=[0], ipc=[1])
    copy = shutil.copytree(bench, tmp_path / "copy")
    (copy / "cells" / "digits-dm-ipc1-seed0" / "result.json").write_text('{"evaluations": 3}')
    with pytest.raises(RunError, match=r"seed0/result\.json is damaged"):
        Results(copy)
    (bench / "grid.toml").write_text("methods = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        Results(bench)
