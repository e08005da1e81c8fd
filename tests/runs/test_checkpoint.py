import logging

import pytest
import torch
from safetensors.torch import save_file

from condense.costs import Cost
from condense.errors import DiskError, RunError
from condense.runs import checkpoint
from condense.runs.checkpoint import latest_checkpoint, save_checkpoint


def state_of(value):
    return {"images": torch.full((2, 3), float(value))}


def bits(tensor):
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([0.1, -0.0, float("nan"), float("inf"), 1e-310], dtype=torch.float64),
        torch.tensor([[0.1, 1e-42]], dtype=torch.float32),
        torch.tensor([0.1, 3.0], dtype=torch.bfloat16),
        torch.tensor([2**63 - 1, -(2**63)]),
        torch.tensor(0.1),
        torch.tensor(7),
        torch.tensor([True, False]),
        torch.zeros(0, 3),
        torch.arange(6.0).reshape(2, 3).T,
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}",
)
def test_tensors_come_back_bit_for_bit(tmp_path, tensor):
    save_checkpoint(tmp_path, 12, {"x": tensor, "same memory": tensor}, "f")
    iteration, state, _ = latest_checkpoint(tmp_path, "f")
    assert iteration == 12
    assert state.keys() == {"x", "same memory"}
    for back in state.values():
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert bits(back) == bits(tensor)


@pytest.mark.parametrize("cost", [Cost(0.1 + 0.2, 2**40), None])
def test_the_cost_comes_back(tmp_path, cost):
    save_checkpoint(tmp_path, 12, state_of(12), "f", cost)
    assert latest_checkpoint(tmp_path, "f").cost == cost


def test_a_tensor_that_requires_grad_comes_back_as_data(tmp_path):
    save_checkpoint(tmp_path, 1, {"x": torch.ones(2, requires_grad=True)}, "f")
    assert not latest_checkpoint(tmp_path, "f")[1]["x"].requires_grad


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "missing", "f") is None


def test_the_last_two_are_kept(tmp_path):
    for iteration in (5, 10, 999_999, 1_000_000):
        save_checkpoint(tmp_path, iteration, state_of(iteration), "f")
    assert names(tmp_path) == ["1000000.safetensors", "999999.safetensors"]
    assert latest_checkpoint(tmp_path, "f")[0] == 1_000_000


@pytest.mark.parametrize("size", [0, 4, 20, -1])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, size, caplog):
    save_checkpoint(tmp_path, 5, state_of(5), "f")
    save_checkpoint(tmp_path, 10, state_of(10), "f")
    damaged = tmp_path / "000010.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:size])
    with caplog.at_level(logging.WARNING, "condense"):
        iteration, state, _ = latest_checkpoint(tmp_path, "f")
    assert iteration == 5
    assert torch.equal(state["images"], state_of(5)["images"])
    assert "000010.safetensors is damaged" in caplog.text


def test_after_a_fallback_the_damaged_files_never_push_out_a_good_one(tmp_path):
    for iteration in (20, 30):
        save_checkpoint(tmp_path, iteration, state_of(iteration), "f")
        (tmp_path / f"{iteration:06d}.safetensors").write_bytes(b"")
    assert latest_checkpoint(tmp_path, "f") is None
    save_checkpoint(tmp_path, 5, state_of(5), "f")
    assert names(tmp_path) == ["000005.safetensors"]


def test_an_error_while_writing_leaves_the_older_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 5, state_of(5), "f")

    def full_disk(_tensors, path, _metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(DiskError, match=r"000010\.safetensors cannot be written: no space"):
        save_checkpoint(tmp_path, 10, state_of(10), "f")
    assert names(tmp_path) == ["000005.safetensors"]
    assert latest_checkpoint(tmp_path, "f")[0] == 5


def test_another_configuration_is_refused(tmp_path):
    save_checkpoint(tmp_path, 5, state_of(5), "f")
    with pytest.raises(RunError, match="another configuration"):
        latest_checkpoint(tmp_path, "g")


def test_another_format_is_refused(tmp_path):
    save_file(state_of(5), tmp_path / "000005.safetensors", {"format_version": "3"})
    with pytest.raises(RunError, match="checkpoint format '3'"):
        latest_checkpoint(tmp_path, "f")
