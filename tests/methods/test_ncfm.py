"""NCFM against its equations in plain loops, and what the published code does that must not happen here."""

import math

import pytest
import torch
from problems import make_condenser, make_problem, relative_error
from torch import nn
from torch.nn import functional as F

from condense.experts import TrajectoryStore
from condense.methods.ncfm import NCFMConfig, initial_psi, scales
from condense.rng import generator
from condense.synthetic import clamp_to_pixels


def start(tmp_path, **values):
    """A condenser, a problem in float64, and the state at the start; the first steps have no momentum."""
    condenser = make_condenser("ncfm", **values)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    return condenser, problem, condenser.init(problem)


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


def sampling_network(psi):
    """The network of the paper's authors, with its last activation replaced, at the parameters psi."""
    layers = []
    for layer in psi:
        d = layer.shape[1]
        linear, norm = nn.Linear(d, d, bias=False).double(), nn.BatchNorm1d(d).double()
        linear.weight = nn.Parameter(layer[:d].T.clone())
        norm.weight, norm.bias = nn.Parameter(layer[d].clone()), nn.Parameter(layer[d + 1].clone())
        layers += [linear, norm, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1], nn.Tanh())


def parameters_as_psi(gradients):
    """The gradients of `sampling_network(psi)`, in the order of its parameters, as psi holds them."""
    weights, scale, shift = gradients[::3], gradients[1::3], gradients[2::3]
    return torch.stack([torch.cat([w.T, a[None], b[None]]) for w, a, b in zip(weights, scale, shift, strict=True)])


def distance(real, synthetic, frequencies, alpha):
    """One frequency after another; cosines of angles, not products of real and imaginary parts."""
    total = 0.0
    for t in frequencies:
        r = torch.stack([torch.exp(1j * (t * f).sum()) for f in real]).mean()
        s = torch.stack([torch.exp(1j * (t * f).sum()) for f in synthetic]).mean()
        phase = 2 * r.abs() * s.abs() * (1 - torch.cos(r.angle() - s.angle()))
        total = total + torch.sqrt(alpha * (r.abs() - s.abs()) ** 2 + (1 - alpha) * phase)
    return total / len(frequencies)


@pytest.mark.parametrize("factor", [1, 2])
def test_one_iteration_against_plain_loops(tmp_path, factor):
    """The loss, the images' step down and psi's step up its gradient, with a full graph."""
    values = {"lr_img": 1e-3, "lr_psi": 0.1, "num_freqs": 32, "batch_real": 5, "alpha": 0.3, "calib_weight": 2.0}
    condenser, problem, state = start(tmp_path, factor=factor, **values)
    theta, trained = condenser.networks(problem, 4)

    net = sampling_network(state["psi"])
    draws = problem.rng("frequencies", 4)
    d = state["psi"].shape[2]
    normal, z = torch.randn(32, d, generator=draws).double(), torch.randn(2, d, generator=draws).double()
    sigma = net(z).exp()
    frequencies = [sigma[k // 16] * normal[k] for k in range(32)]

    (batch,) = condenser.batches(clamp_to_pixels(state["images"], problem.preprocessing), problem, 4)
    assert batch.synthetic.shape[1] == 2 * factor**2
    expected = 0.0
    for c in range(3):
        features = []
        for images in (batch.real[c], batch.synthetic[c]):
            embeddings = [problem.network.embed(theta, image[None])[0] for image in images]
            features.append([f / f.square().sum().sqrt() for f in embeddings])
        expected = expected + 300 * distance(*features, frequencies, alpha=0.3)
        for image in batch.synthetic[c]:
            likelihood = F.softmax(problem.network.logits(trained, image[None])[0], 0)[c]
            expected = expected - 2.0 * likelihood.log() / len(batch.synthetic[c])
    by_images, *by_psi = torch.autograd.grad(expected, [batch.stored, *net.parameters()])

    before = copied(state)
    metrics = condenser.step(state, problem, 4)
    assert metrics["loss"] == pytest.approx(float(expected.detach()), rel=1e-10)
    assert relative_error((batch.stored.detach() - state["images"]) / 1e-3, by_images) < 1e-8
    assert relative_error((state["psi"] - before["psi"]) / 0.1, parameters_as_psi(by_psi)) < 1e-8


@pytest.mark.parametrize("class_batch", [1, 2])
def test_classes_in_chunks_make_the_same_step(tmp_path, class_batch):
    """For the images and for psi, whose gradient adds up over the chunks."""
    states = []
    for chunk in (None, class_batch):
        condenser, problem, state = start(tmp_path, class_batch=chunk, lr_psi=1e-3)
        for iteration in range(3):
            condenser.step(state, problem, iteration)
        states.append(state)
    for name in ("images", "psi"):
        assert relative_error(states[0][name], states[1][name]) < 1e-10


# the network that is matched on


def test_theta_lies_between_the_start_and_the_end_of_an_expert(tmp_path):
    condenser, problem, _ = start(tmp_path)
    seen = []
    for iteration in range(40):
        theta, trained = condenser.networks(problem, iteration)
        for expert in range(2):
            first, last = problem.experts.snapshot(expert, 0), problem.experts.snapshot(expert, 3)
            if torch.equal(trained, last):
                part = float(((theta - last) @ (first - last)) / (first - last).square().sum())
                torch.testing.assert_close(theta, part * first + (1 - part) * last, rtol=0, atol=1e-12)
                seen.append((expert, part))
    assert len(seen) == 40
    assert {expert for expert, _ in seen} == {0, 1}
    parts = sorted(part for _, part in seen)
    assert 0 < parts[0] < 0.2 and 0.8 < parts[-1] < 1 and 0.3 < sum(parts) / 40 < 0.7


def test_the_experts_are_trained_as_published():
    plan = NCFMConfig().expert_plan("flip")
    assert (plan.epochs, plan.lr, plan.momentum, plan.weight_decay, plan.batch) == (60, 0.01, 0.9, 5e-4, 128)
    assert (plan.decay_epochs, plan.decay_factor) == ((40, 50), 0.2)
    assert (plan.dsa, plan.composed, plan.cutmix) == ("color_crop", True, 0.5)
    assert NCFMConfig().num_experts == 20


# the frequencies


def test_the_sampling_network_is_on_by_default():
    """In the published code it was off at first, so that the maximum of the paper's title was missing."""
    assert NCFMConfig().sampling_net


def test_the_frequencies_are_a_scale_mixture_of_normals(tmp_path):
    """16 of each scale, and, unlike in the published code, no two of them the same."""
    condenser, problem, state = start(tmp_path)
    frequencies = condenser.frequencies(state["psi"], problem, 2)
    normal = condenser.frequencies(None, problem, 2)
    ratio = (frequencies / normal).unflatten(0, (-1, 16))
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-12, atol=0)
    assert len(ratio) == 8 and not torch.equal(ratio[0], ratio[1])
    assert len(frequencies.unique(dim=0)) == 128
    assert not torch.equal(condenser.frequencies(state["psi"], problem, 3), frequencies)


def test_without_the_sampling_network_frequencies_are_standard_normal(tmp_path):
    condenser, problem, state = start(tmp_path, sampling_net=False, num_freqs=1024)
    assert not any(name.startswith("psi") for name in state)
    t = torch.stack([condenser.frequencies(None, problem, iteration) for iteration in range(4)])
    n = t.numel()
    assert abs(t.mean()) < 5 / math.sqrt(n) and abs(t.square().mean() - 1) < 5 * math.sqrt(2 / n)
    before = state["images"].clone()
    condenser.step(state, problem, 0)
    assert not torch.equal(state["images"], before)


def test_scales_are_positive_bounded_and_around_one_at_the_start():
    psi = initial_psi(32, generator(0, "psi"))
    sigma = scales(psi, torch.randn(64, 32, generator=generator(0, "z")))
    assert 1 / math.e < sigma.min() < 0.6 and 1.6 < sigma.max() < math.e
    assert sigma.log().mean().abs() < 0.02
    far = scales(100 * psi, torch.randn(64, 32, generator=generator(0, "z")))
    assert 1 / math.e - 1e-6 < far.min() and far.max() < math.e + 1e-6


def test_psi_ascends(tmp_path):
    """With images that stand still, a step of psi raises the loss of the same draws, and many raise that of others."""
    condenser, problem, state = start(tmp_path, lr_img=1e-30, lr_psi=1e-6, momentum_psi=0.0)
    first, before = copied(state), state["psi"].clone()
    loss = condenser.step(state, problem, 0)["loss"]
    gradient = (state["psi"] - before) / 1e-6
    again = condenser.step(copied(state), problem, 0)["loss"]
    assert again - loss == pytest.approx(1e-6 * float(gradient.square().sum()), rel=0.01)

    learning = make_condenser("ncfm", lr_img=1e-30, lr_psi=1e-3)
    learned = copied(first)
    for iteration in range(1, 41):
        learning.step(learned, problem, iteration)
    others = range(100, 110)
    apart = [sum(condenser.step(copied(s), problem, i)["loss"] for i in others) for s in (first, learned)]
    assert apart[1] > 1.1 * apart[0]


# what the published code does that must not happen here


def test_a_step_reads_two_snapshots_of_one_expert_and_opens_no_store(tmp_path, monkeypatch):
    """The published code builds and unpickles two networks in every iteration."""
    condenser, problem, state = start(tmp_path)
    read = []
    snapshot = TrajectoryStore.snapshot
    monkeypatch.setattr(
        TrajectoryStore, "snapshot", lambda store, *which: read.append(which) or snapshot(store, *which)
    )
    monkeypatch.setattr(TrajectoryStore, "open", None)
    condenser.step(state, problem, 0)
    (first, start_epoch), (second, end_epoch) = read
    assert first == second and (start_epoch, end_epoch) == (0, condenser.config.pretrain_epochs)


def test_real_images_are_drawn_anew_from_the_whole_class(tmp_path):
    """The published code takes the first ones of each class in every iteration."""
    condenser, problem, state = start(tmp_path, batch_real=8)
    taken = []

    class Watched:
        def __getitem__(self, rows):
            taken.append(rows)
            return inputs[rows]

    inputs, problem.__dict__["inputs"] = problem.inputs, Watched()
    for iteration in range(30):
        for _ in condenser.batches(state["images"], problem, iteration):
            pass
    assert all(len(rows) == 24 for rows in taken) and len({tuple(rows.tolist()) for rows in taken}) == 30
    assert len(torch.cat(taken).unique()) == len(problem.data.train.labels)


def test_one_step_of_adam_moves_all_classes_together(tmp_path):
    """Not one for each class on moments that all share. Against torch's AdamW, on gradients taken with SGD."""
    adam, problem, state = start(tmp_path, optimizer="adam", lr_img=1e-3, momentum_img=0.9)
    plain = make_condenser("ncfm", lr_img=1.0, momentum_img=0.0)
    parameter = state["images"].clone().requires_grad_()
    optimiser = torch.optim.AdamW([parameter], lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    for iteration in range(4):
        probe = copied(state)
        plain.step(probe, problem, iteration)
        parameter.grad = clamp_to_pixels(state["images"], problem.preprocessing) - probe["images"]
        adam.step(state, problem, iteration)
        optimiser.step()
        torch.testing.assert_close(state["images"], parameter.detach(), rtol=0, atol=1e-10)
    assert float(state["images.steps"]) == 4


def test_images_are_clamped_before_an_iteration(tmp_path):
    """A set that no pixels give moves as its nearest neighbour that pixels do give."""
    condenser, problem, state = start(tmp_path)
    state["images"] *= 4
    clamped = copied(state) | {"images": clamp_to_pixels(state["images"], problem.preprocessing)}
    assert not torch.equal(clamped["images"], state["images"])
    assert condenser.step(state, problem, 0) == condenser.step(clamped, problem, 0)
    assert torch.equal(clamped["images"], state["images"])


def test_color_crop_and_cutout_are_all_applied_by_default(tmp_path):
    condenser, problem, _ = start(tmp_path)
    assert [stage.operations for stage in condenser.augmentations(problem)] == [("color",), ("crop",), ("cutout",)]


def test_without_a_weight_the_trained_network_is_not_asked(tmp_path, monkeypatch):
    condenser, problem, state = start(tmp_path, calib_weight=0.0)
    monkeypatch.setattr(problem.network, "logits", None)
    assert condenser.step(state, problem, 0)["calibration"] == 0
