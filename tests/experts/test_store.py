"""The trajectory store: what comes back, what is refused, and what an interruption leaves behind."""

import json
import os
import time

import numpy as np
import pytest
import torch

from condense.errors import DataError
from condense.experts import TrajectoryStore
from condense.rng import generator
from condense.text import seal

IDENTITY = {"data_sha256": "ab" * 32, "network": "convnet:width=4", "lr": 0.01, "adaptive": True, "dsa": "none"}
SNAPSHOTS, PARAMETERS = 3, 5


def open_store(path, **changes):
    return TrajectoryStore.open(
        path, **{"identity": IDENTITY, "snapshots": SNAPSHOTS, "parameters": PARAMETERS, **changes}
    )


def trajectory(expert, snapshots=SNAPSHOTS):
    return list(torch.randn(snapshots, PARAMETERS, generator=generator(0, "trajectory", expert)))


def filled(path, experts=(0, 1), **changes):
    store = open_store(path, **changes)
    for expert in experts:
        store.write(expert, trajectory(expert, changes.get("snapshots", SNAPSHOTS)))
    return store


def holds(store, experts):
    return all(
        torch.equal(store.snapshot(expert, epoch), theta)
        for expert in range(experts)
        for epoch, theta in enumerate(trajectory(expert, store.snapshots)[:SNAPSHOTS])
    )


def edit(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_bytes(seal(manifest | changes, indent=1))


# round trip


def test_round_trip_now_and_after_reopening(tmp_path):
    assert holds(filled(tmp_path / "new" / "store"), 2)
    assert holds(open_store(tmp_path / "new" / "store"), 2)


def test_the_array_is_plain_numbers_in_order(tmp_path):
    """[experts, snapshots, parameters], little-endian, so that anything can read it."""
    filled(tmp_path)
    array = np.fromfile(tmp_path / "trajectories.bin", "<f4").reshape(2, SNAPSHOTS, PARAMETERS)
    for expert in range(2):
        np.testing.assert_array_equal(array[expert], torch.stack(trajectory(expert)).numpy())


def test_experts_may_be_written_in_any_order(tmp_path):
    store = filled(tmp_path, [2, 0])
    assert store.missing(4) == [1, 3]
    store.write(1, trajectory(1))
    assert store.missing(3) == [] and holds(store, 3)
    assert json.loads((tmp_path / "manifest.json").read_text())["experts"] == [0, 1, 2]


def test_a_snapshot_is_memory_of_its_own(tmp_path):
    store = filled(tmp_path)
    store.snapshot(1, 1).fill_(9)
    assert torch.equal(store.snapshot(1, 1), trajectory(1)[1])
    assert holds(open_store(tmp_path), 2)


def test_snapshots_in_other_types_are_stored_as_float32(tmp_path):
    store = open_store(tmp_path)
    store.write(0, [theta.double().requires_grad_() for theta in trajectory(0)])
    assert holds(store, 1)


def test_bfloat16_rounds_to_the_nearest_even(tmp_path):
    """Against integer arithmetic on the bits of float32: add half of the dropped part, ties to even, cut off."""
    values = torch.randn(SNAPSHOTS, 2000, generator=generator(0, "bf16"))
    ties = torch.tensor([0x3F808000, 0x3F818000, -0x407E8000], dtype=torch.int32).view(torch.float32)
    values[0, :3] = ties
    store = open_store(tmp_path, parameters=2000, dtype="bfloat16")
    store.write(0, list(values))
    bits = values.numpy().view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "trajectories.bin", "<u2").reshape(SNAPSHOTS, -1), rounded)
    expected = (rounded.astype(np.uint32) << 16).view(np.float32)
    for epoch in range(SNAPSHOTS):
        snapshot = store.snapshot(0, epoch)
        assert snapshot.dtype == torch.float32
        np.testing.assert_array_equal(snapshot.numpy(), expected[epoch])


def test_a_longer_store_serves_a_shorter_need(tmp_path):
    filled(tmp_path, snapshots=SNAPSHOTS + 2)
    store = open_store(tmp_path, snapshots=SNAPSHOTS)
    assert store.snapshots == SNAPSHOTS + 2
    store.write(2, trajectory(2, SNAPSHOTS + 2))
    assert holds(store, 3)


def test_a_store_of_more_experts_serves_fewer(tmp_path):
    store = filled(tmp_path, range(4))
    assert store.missing(2) == [] and holds(store, 2)


# interruptions


class Killed(BaseException):
    """As KeyboardInterrupt: no Exception."""


def broken(expert, after, error):
    yield from trajectory(expert)[:after]
    raise error


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), Killed()], ids=["error", "kill"])
@pytest.mark.parametrize("after", [0, 1, SNAPSHOTS])
def test_an_interrupted_expert_does_not_count(tmp_path, after, error):
    store = filled(tmp_path)
    manifest = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(type(error)):
        store.write(2, broken(2, after, error))
    assert (tmp_path / "manifest.json").read_bytes() == manifest
    for reopened in (store, open_store(tmp_path)):
        assert reopened.missing(3) == [2]
        assert holds(reopened, 2)


@pytest.mark.parametrize("snapshots", [SNAPSHOTS - 1, SNAPSHOTS + 1])
def test_an_expert_of_another_length_neither_counts_nor_touches_its_neighbours(tmp_path, snapshots):
    store = filled(tmp_path, [0, 2])
    with pytest.raises(AssertionError):
        store.write(1, trajectory(1, snapshots))
    store = open_store(tmp_path)
    assert store.missing(3) == [1]
    store.write(1, trajectory(1))
    assert holds(store, 3)


def test_resuming_gives_the_file_of_an_uninterrupted_store(tmp_path):
    filled(tmp_path / "whole", range(3))
    store = filled(tmp_path / "cut", [0])
    with pytest.raises(Killed):
        store.write(1, broken(1, 2, Killed()))
    store = open_store(tmp_path / "cut")
    for expert in store.missing(3):
        store.write(expert, trajectory(expert))
    arrays = [(tmp_path / name / "trajectories.bin").read_bytes() for name in ("whole", "cut")]
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("whole", "cut")]
    assert all(manifest.pop("seal") for manifest in manifests)
    costs = [manifest.pop("costs") for manifest in manifests]  # the one thing that is measured
    assert arrays[0] == arrays[1] and manifests[0] == manifests[1] and costs[0].keys() == costs[1].keys()


# cost


def test_an_expert_costs_the_time_that_its_trajectory_took_to_come(tmp_path):
    def slow():
        for theta in trajectory(0):
            time.sleep(0.05)
            yield theta

    store, began = open_store(tmp_path), time.perf_counter()
    store.write(0, slow())
    store.write(1, trajectory(1))
    taken = time.perf_counter() - began
    both, one = open_store(tmp_path).cost(2, SNAPSHOTS), open_store(tmp_path).cost(1, SNAPSHOTS)
    assert 0.05 * SNAPSHOTS <= one.seconds < both.seconds <= taken
    assert one.peak_bytes > 10 * 2**20  # that of this process


def test_a_part_of_a_longer_trajectory_costs_its_part_of_the_time(tmp_path):
    store = filled(tmp_path, snapshots=5)
    whole, half = store.cost(2, 5), store.cost(2, 3)
    assert half.seconds == pytest.approx(whole.seconds / 2)
    assert half.peak_bytes == whole.peak_bytes


def test_what_was_not_measured_is_not_known(tmp_path):
    store = filled(tmp_path)
    edit(tmp_path, costs={"0": store.manifest["costs"]["0"]})
    assert open_store(tmp_path).cost(1, SNAPSHOTS) is not None
    assert open_store(tmp_path).cost(2, SNAPSHOTS) is None
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["costs"], manifest["sha256"], manifest["seal"]  # as an earlier version wrote it
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"version": 1}))
    store = open_store(tmp_path)
    assert store.cost(1, SNAPSHOTS) is None
    store.write(2, trajectory(2))
    assert list(store.manifest["costs"]) == ["2"]


# how hard the images are

RANKING = [torch.tensor([4, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([1, 3, 2])]


def never():
    raise AssertionError("the ranking is made again")


def same(ranking):
    return len(ranking) == len(RANKING) and all(map(torch.equal, ranking, RANKING))


def test_the_ranking_is_made_once_and_what_it_took_is_part_of_the_cost(tmp_path):
    def slow():
        time.sleep(0.1)
        return RANKING

    store = filled(tmp_path, snapshots=5)
    assert store.cost(2, 5, ranked=True) is None
    assert same(store.ranking(slow))
    assert same(store.ranking(never)) and same(open_store(tmp_path).ranking(never))
    for snapshots in (5, 3):
        alone, ranked = (open_store(tmp_path).cost(2, snapshots, ranked=ranked) for ranked in (False, True))
        took = store.manifest["costs"]["ranking"]["seconds"]
        assert 0.1 <= took == pytest.approx(ranked.seconds - alone.seconds)
    assert holds(open_store(tmp_path), 2)


def test_an_interrupted_ranking_does_not_count(tmp_path):
    def interrupted():
        raise Killed()

    with pytest.raises(Killed):
        filled(tmp_path).ranking(interrupted)
    assert same(open_store(tmp_path).ranking(lambda: RANKING))


@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: old[:-8] + bytes(8), lambda _: b"", None])
def test_a_damaged_ranking_is_refused(tmp_path, damage):
    filled(tmp_path).ranking(lambda: RANKING)
    file = tmp_path / "ranking.safetensors"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"ranking\.safetensors is missing or damaged"):
        open_store(tmp_path).ranking(never)


def test_the_manifest_names_an_expert_only_after_its_bytes_are_there(tmp_path):
    """Looked at from outside while the expert is being written."""
    store, looks = filled(tmp_path), []

    def watched():
        for theta in trajectory(2):
            looks.append(json.loads((tmp_path / "manifest.json").read_text())["experts"])
            yield theta

    store.write(2, watched())
    assert looks == [[0, 1]] * SNAPSHOTS
    assert json.loads((tmp_path / "manifest.json").read_text())["experts"] == [0, 1, 2]


def test_an_unfinished_expert_has_no_snapshots(tmp_path):
    with pytest.raises(AssertionError):
        filled(tmp_path, [1]).snapshot(0, 0)


# what is refused


def test_a_mismatch_names_every_field_that_differs_and_no_other(tmp_path):
    filled(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = {key: value for key, value in IDENTITY.items() if key != "dsa"} | {
        "lr": 0.02,
        "adaptive": False,
        "rho": 0.5,
    }
    with pytest.raises(DataError) as caught:
        open_store(tmp_path, identity=other, snapshots=9, parameters=7, dtype="bfloat16")
    message = str(caught.value)
    for expected in (
        "lr: store has 0.01, this run needs 0.02",
        "adaptive: store has True, this run needs False",
        "rho: store has None, this run needs 0.5",
        "dsa: store has 'none', this run needs None",
        "snapshots: store has 3, this run needs 9",
        "parameters: store has 5, this run needs 7",
        "dtype: store has 'float32', this run needs 'bfloat16'",
        str(tmp_path),
        "buffer=PATH",
    ):
        assert expected in message
    assert "network" not in message and "data_sha256" not in message and "version" not in message
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("field", ["format", "version"])
def test_a_store_of_another_format_is_refused(tmp_path, field):
    filled(tmp_path)
    edit(tmp_path, **{field: "another"})
    with pytest.raises(DataError, match=f"{field}: store has 'another'"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"format": "condense-trajectories", "identity": {}}',
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, content):
    filled(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        open_store(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == content


@pytest.mark.parametrize(
    "wrong",
    [
        {"experts": 2},
        {"experts": ["0"]},
        {"experts": [0, -1]},
        {"experts": [[0]]},
        {"snapshots": "3"},
        {"identity": []},
    ],
)
def test_wrong_types_in_the_manifest_are_refused(tmp_path, wrong):
    filled(tmp_path)
    edit(tmp_path, **wrong)
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        open_store(tmp_path)


@pytest.mark.parametrize("left", [0, 4, 2 * SNAPSHOTS * PARAMETERS * 4 - 1, None])
def test_a_truncated_array_is_refused_before_more_is_written(tmp_path, left):
    """Writing a third expert would make the file long enough again, with zeros in the second."""
    filled(tmp_path)
    if left is None:
        (tmp_path / "trajectories.bin").unlink()
    else:
        os.truncate(tmp_path / "trajectories.bin", left)
    with pytest.raises(DataError, match=rf"has {left or 0} bytes, 120 are expected.*truncated"):
        open_store(tmp_path)


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "store").write_text("something else")
    for path in (tmp_path / "store", tmp_path / "store" / "inside"):
        with pytest.raises(DataError, match="cannot be made"):
            open_store(path)
    assert (tmp_path / "store").read_text() == "something else"
