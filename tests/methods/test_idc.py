"""IDC against a loop over images, classes and layers that is written from the paper's equations."""

from itertools import pairwise

import pytest
import torch
from problems import blobs, make_condenser, make_problem, relative_error
from torch.nn import functional as F

from condense.augment import DSA, cutmix
from condense.errors import ConfigError
from condense.methods import METHODS
from condense.objectives.gradient import absolute_distance, convolutions, squared_distance
from condense.synthetic import decode, sample_per_class


def slow_resize(cell, side):
    """Bilinear, corners not aligned, by a loop over the pixels [ch, h, w] -> [ch, side, side]."""
    _, h, w = cell.shape
    rows = []
    for i in range(side):
        row = []
        for j in range(side):
            y, x = max((i + 0.5) * h / side - 0.5, 0), max((j + 0.5) * w / side - 0.5, 0)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = y - top, x - left
            upper = (1 - b) * cell[:, top, left] + b * cell[:, top, right]
            lower = (1 - b) * cell[:, bottom, left] + b * cell[:, bottom, right]
            row.append((1 - a) * upper + a * lower)
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)


def slow_decode(stored, factor):
    """Cells row by row; the first side % factor bands are one pixel higher, and the columns likewise."""
    side = stored.shape[3]
    ends = [0]
    for k in range(factor):
        ends.append(ends[-1] + side // factor + (k < side % factor))
    assert ends[-1] == side
    return torch.stack(
        [
            slow_resize(image[:, ends[i] : ends[i + 1], ends[j] : ends[j + 1]], side)
            for image in stored
            for i in range(factor)
            for j in range(factor)
        ]
    )


@pytest.mark.parametrize(("size", "factor"), [(8, 2), (8, 3), (28, 2), (28, 3), (32, 2), (32, 3)])
def test_a_mosaic_is_decoded_cell_by_cell(size, factor):
    stored = torch.randn(2, 2, size, size, dtype=torch.float64)
    decoded = decode(stored, factor)
    assert decoded.shape == (2 * factor**2, 2, size, size)
    torch.testing.assert_close(decoded, slow_decode(stored, factor), rtol=0, atol=1e-12)


def slow_loss(network, theta, real, synthetic, c, distance):
    """The loss of one class, differentiable by the synthetic images: a backward pass through the backward pass."""
    gradients = []
    for x in (real, synthetic):
        weights = {name: p.detach().clone().requires_grad_() for name, p in network.split(theta).items()}
        flat = torch.cat([p.flatten() for p in weights.values()])
        loss = -F.log_softmax(network.logits(flat, x), 1)[:, c].mean()
        convs = [p for name, p in weights.items() if name.startswith("features") and p.ndim == 4]
        assert len(convs) == 2
        gradients.append(torch.autograd.grad(loss, convs, create_graph=True))
    total = 0
    for r, s in zip(*gradients, strict=True):
        difference = r.detach() - s
        total = total + (difference**2 if distance == "mse" else difference.abs()).sum()
    return total


@pytest.mark.parametrize("distance", ["mse", "l1"])
def test_one_iteration_against_the_papers_loss(distance, tmp_path):
    """Mosaics, the three operators one after another for each class, and the distance, on the draws of an address."""
    condenser = make_condenser("idc", factor=2, aug_type="color_crop_cutout", distance=distance)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    state = condenser.init(problem)
    images, theta = state["images"].clone().requires_grad_(), state["theta"].clone()
    draws = problem.rng("matching", 3)
    rows = sample_per_class(problem.members, condenser.config.batch_real, draws).view(3, -1)
    stages = [DSA("color"), DSA("crop"), DSA("cutout")]
    records = [[stage.sample(draws, 1, shared=True) for _ in range(3)] for stage in stages]
    loss = 0
    for c in range(3):
        real, synthetic = problem.inputs[rows[c]], slow_decode(images[2 * c : 2 * c + 2], 2)
        assert len(synthetic) == 8
        for stage, of_classes in zip(stages, records, strict=True):
            real, synthetic = stage.apply(real, of_classes[c]), stage.apply(synthetic, of_classes[c])
        loss = loss + slow_loss(problem.network, theta, real, synthetic, c, distance)
    (gradient,) = torch.autograd.grad(loss, images)

    metrics = condenser.step(state, problem, 3)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    moved = (images.detach() - state["images"]) / condenser.config.lr_img
    assert relative_error(moved, gradient) < 1e-9


def test_only_convolutions_count():
    draws = torch.Generator().manual_seed(0)
    shapes = [(4, 2, 3, 3), (4,), (4, 5, 5), (3, 8), (3,), (2, 4, 1, 1)]
    a, b = ([torch.randn(shape, generator=draws) for shape in shapes] for _ in range(2))
    for index in (1, 2, 3, 4):
        b[index] = b[index] + 100
    assert [tensor.shape for tensor in convolutions(a)] == [shapes[0], shapes[5]]
    squares = sum(float(((a[k] - b[k]) ** 2).sum()) for k in (0, 5))
    absolute = sum(float((a[k] - b[k]).abs().sum()) for k in (0, 5))
    assert float(squared_distance(convolutions(a), convolutions(b))) == pytest.approx(squares, rel=1e-5)
    assert float(absolute_distance(convolutions(a), convolutions(b))) == pytest.approx(absolute, rel=1e-5)


def test_classes_in_chunks_make_the_same_step(tmp_path):
    images = []
    for class_batch in (None, 1, 2):
        condenser = make_condenser("idc", factor=2, class_batch=class_batch)
        problem = make_problem(condenser, tmp_path, dtype=torch.float64)
        state = condenser.init(problem)
        condenser.step(state, problem, 0)
        images.append(state["images"])
    assert relative_error(images[1], images[0]) < 1e-12 and relative_error(images[2], images[0]) < 1e-12


def test_at_most_batch_syn_max_images_of_a_class_are_matched(tmp_path):
    condenser = make_condenser("idc", factor=2, batch_syn_max=5)
    problem = make_problem(condenser, tmp_path)
    (batch,) = condenser.batches(condenser.init(problem)["images"], problem, 0)
    assert batch.synthetic.shape[:2] == (3, 5)


def test_the_images_are_clamped_once_per_network(tmp_path):
    """A pixel that is out of range stays there while its network lasts, and comes back to the end of the range."""
    condenser = make_condenser("idc", inner_loop=3, lr_img=1e-12)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    state["images"][0, 0, 0, 0], state["images"][1, 0, 0, 0] = 50, -50
    for iteration in range(7):
        condenser.step(state, problem, iteration)
        pixels = problem.preprocessing.inverse(state["images"])
        if iteration < 2:
            assert float(pixels[0, 0, 0, 0]) > 5 and float(pixels[1, 0, 0, 0]) < -5
        else:
            assert float(pixels[0, 0, 0, 0]) == pytest.approx(1) and float(pixels[1, 0, 0, 0]) == pytest.approx(0)
        if iteration == 3:
            state["images"][2, 0, 0, 0] = 50
        if iteration in (3, 4, 5):
            assert (float(state["images"][2, 0, 0, 0]) > 49) == (iteration < 5)


def test_noise_starts_in_the_range_of_pixels(tmp_path):
    condenser = make_condenser("idc", init="noise")
    problem = make_problem(condenser, tmp_path)
    pixels = problem.preprocessing.inverse(condenser.init(problem)["images"])
    assert -1e-6 < float(pixels.min()) < 1e-6 and float(pixels.max()) == pytest.approx(1)


def test_networks_follow_one_another(tmp_path):
    """Each starts at random and at rest, is trained after all its updates but the last, and its successor is new."""
    condenser = make_condenser("idc", inner_loop=3)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    seen = []
    for iteration in range(7):
        theta = state["theta"].clone()
        fresh = torch.equal(theta, problem.network.init(problem.seed, "network", iteration // 3))
        assert fresh == (iteration % 3 == 0) == (not state["theta.velocity"].any())
        seen.append(theta)
        condenser.step(state, problem, iteration)
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))


def test_the_network_takes_sgd_steps_on_real_images_alone(tmp_path):
    """Three steps after each of two updates, against torch's SGD; the images it is not trained on may be any."""
    condenser = make_condenser(
        "idc", aug_type="color_crop_cutout", train_images=24, batch_train=10, mix_p=0.5, lr_net=0.02
    )
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    state = condenser.init(problem)
    theta = state["theta"].clone().requires_grad_()
    optimiser = torch.optim.SGD([theta], lr=0.02, momentum=0.9, weight_decay=5e-4)
    for iteration in (0, 1):
        state["images"] += torch.randn_like(state["images"])
        condenser.step(state, problem, iteration)
        draws = problem.rng("training", iteration)
        order = sample_per_class([torch.arange(120)], 30, draws)
        assert len(order.unique()) == 30
        for step in range(3):
            rows = order[10 * step : 10 * step + 10]
            x = problem.inputs[rows]
            for name in ("color", "crop"):
                x = DSA(name).augment(x, draws)
            x, y = cutmix(x, problem.data.train.labels[rows], 3, draws, 0.5)
            optimiser.zero_grad()
            loss = -(y * F.log_softmax(problem.network.logits(theta, x), 1)).sum(1).mean()
            loss.backward()
            optimiser.step()
        assert relative_error(state["theta"], theta.detach()) < 1e-12


def test_a_copied_state_goes_on_the_same_way_over_the_change_of_networks(tmp_path):
    condenser = make_condenser("idc", inner_loop=2)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    condenser.step(state, problem, 0)
    copy = {name: tensor.clone() for name, tensor in state.items()}
    for some in (state, copy):
        for iteration in range(1, 4):
            condenser.step(some, problem, iteration)
    assert all(torch.equal(copy[name], tensor) for name, tensor in state.items())


def test_a_class_without_gradient_does_not_move(tmp_path, monkeypatch):
    """One step is for all classes: the momentum of the others does not reach it."""
    condenser = make_condenser("idc", factor=2, init="real")
    problem = make_problem(condenser, tmp_path)
    losses = condenser.losses
    monkeypatch.setattr(condenser, "losses", lambda *given: losses(*given) * torch.tensor([1.0, 0.0, 1.0]))
    state = condenser.init(problem)
    start = state["images"].clone()
    for iteration in range(10):
        condenser.step(state, problem, iteration)
    assert torch.equal(state["images"][2:4], start[2:4])
    assert not torch.equal(state["images"][:2], start[:2]) and not torch.equal(state["images"][4:], start[4:])


def test_a_network_without_convolutions_is_refused(tmp_path):
    condenser = make_condenser("idc")
    with pytest.raises(ConfigError, match=r"'mlp' has no convolutions.*convnet"):
        condenser.init(make_problem(condenser, tmp_path, network="mlp"))


def test_an_unknown_operator_is_refused():
    with pytest.raises(ValueError, match="unknown operator 'blur'"):
        METHODS["idc"].Config(aug_type="color_blur")


def test_the_default_shows_four_images_for_each_stored_one(tmp_path):
    condenser = METHODS["idc"](METHODS["idc"].Config(train_images=64))
    problem = make_problem(condenser, tmp_path, data=blobs(size=10))
    made = condenser.distilled(condenser.init(problem), problem)
    assert made.factor == 2 and made.images.shape == (6, 1, 10, 10)
    assert made.decoded().labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
