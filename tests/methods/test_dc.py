import weakref

import pytest
import torch
from oracles import gradient as oracle
from problems import CLASSES, make_condenser, make_problem, relative_error

from condense.config import Layer, resolve
from condense.methods.dc import DCConfig
from condense.synthetic import sample_per_class

NORMS = ["none", "instance", "group", "batch", "layer"]


def real_images(problem, iteration, count):
    """One tensor for each class, by the draws of the iteration's address."""
    rows = sample_per_class(problem.members, count, problem.rng("matching", iteration))
    return problem.preprocessing(problem.data.train.images[rows]).chunk(CLASSES)


@pytest.mark.parametrize("norm", NORMS)
def test_one_iteration_against_double_backward(norm, tmp_path):
    """The loss and the step against a full graph through the gradients of one class after another."""
    dc = make_condenser("dc", batch_real=7, lr_img=1.0)
    problem = make_problem(dc, tmp_path, dtype=torch.float64, network=f"convnet:width=4,depth=2,norm={norm}")
    state = dc.init(problem)
    stored = state["images"].clone().requires_grad_()
    theta = problem.network.init(problem.seed, "network", 0)
    loss = oracle.matching(problem.network, theta, real_images(problem, 0, 7), stored.chunk(CLASSES))
    (gradient,) = torch.autograd.grad(loss, stored)
    assert dc.step(state, problem, 0)["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    assert relative_error(stored.detach() - state["images"], gradient) < 1e-9


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_the_distances_of_the_code_against_double_backward(distance, tmp_path):
    dc = make_condenser("dc", batch_real=7, lr_img=1.0, distance=distance)
    problem = make_problem(dc, tmp_path, dtype=torch.float64)
    state = dc.init(problem)
    stored = state["images"].clone().requires_grad_()
    theta = problem.network.init(problem.seed, "network", 0)
    loss = oracle.matching(problem.network, theta, real_images(problem, 0, 7), stored.chunk(CLASSES), distance)
    (gradient,) = torch.autograd.grad(loss, stored)
    assert dc.step(state, problem, 0)["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    assert relative_error(stored.detach() - state["images"], gradient) < 1e-9


@pytest.mark.parametrize("ipc", [2, 40])
def test_few_and_many_images_of_a_class_go_the_same_way(ipc, tmp_path):
    """Classes are batched up to 32 images of each, and looped over beyond."""
    dc = make_condenser("dc", batch_real=40, lr_img=1.0)
    problem = make_problem(dc, tmp_path, dtype=torch.float64, ipc=ipc)
    state = dc.init(problem)
    stored = state["images"].clone().requires_grad_()
    theta = problem.network.init(problem.seed, "network", 0)
    loss = oracle.matching(problem.network, theta, real_images(problem, 0, 40), stored.chunk(CLASSES))
    (gradient,) = torch.autograd.grad(loss, stored)
    dc.step(state, problem, 0)
    assert relative_error(stored.detach() - state["images"], gradient) < 1e-9


def test_algorithm_1_over_two_networks(tmp_path):
    """Three updates of the images for each network, which is trained after the first and the second one only."""
    settings = {"outer_loop": 3, "inner_loop": 2, "batch_train": 4, "lr_net": 0.1, "batch_real": 7, "lr_img": 0.5}
    dc = make_condenser("dc", **settings)
    problem = make_problem(dc, tmp_path, dtype=torch.float64)
    network, state = problem.network, dc.init(problem)
    images, velocity = state["images"].clone(), torch.zeros_like(state["images"])
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    for iteration in range(6):
        if iteration % 3 == 0:
            theta = network.init(problem.seed, "network", iteration // 3)
        stored = images.clone().requires_grad_()
        loss = oracle.matching(network, theta, real_images(problem, iteration, 7), stored.chunk(CLASSES))
        velocity = 0.5 * velocity + torch.autograd.grad(loss, stored)[0]
        images = images - 0.5 * velocity
        if iteration % 3 != 2:
            draws, batches = problem.rng("training", iteration), []
            for _ in range(2):
                order = torch.randperm(6, generator=draws)
                batches += [(images[rows], labels[rows]) for rows in (order[:4], order[4:])]
            theta = oracle.train(network, theta, batches, 0.1)

        assert dc.step(state, problem, iteration)["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
        assert relative_error(state["images"], images) < 1e-9
        assert relative_error(state["theta"], theta) < 1e-9


def test_mosaics_are_trained_on_as_they_are_matched(tmp_path):
    """Four images and their mirror images for each stored one, each with its label."""
    dc = make_condenser("dc", factor=2, flip=True, outer_loop=2, inner_loop=1, lr_net=0.1)
    problem = make_problem(dc, tmp_path, dtype=torch.float64)
    state = dc.init(problem)
    theta = problem.network.init(problem.seed, "network", 0)
    dc.step(state, problem, 0)
    images = dc.expand(state["images"])
    assert images.shape == (48, 1, 8, 8)
    batch = (images, torch.arange(CLASSES).repeat_interleave(16))
    assert relative_error(state["theta"], oracle.train(problem.network, theta, [batch], 0.1)) < 1e-9


def test_without_epochs_the_network_stays(tmp_path):
    dc = make_condenser("dc", outer_loop=2, inner_loop=0)
    problem = make_problem(dc, tmp_path)
    state = dc.init(problem)
    dc.step(state, problem, 0)
    assert torch.equal(state["theta"], problem.network.init(problem.seed, "network", 0))


@pytest.mark.parametrize(
    ("ipc", "pair"),
    [(1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (30, (30, 20)), (40, (40, 15)), (50, (50, 10)), (100, (100, 2))],
)
def test_published_loops(ipc, pair):
    assert DCConfig().loops(ipc) == pair


@pytest.mark.parametrize(
    ("ipc", "pair"), [(2, (2, 250)), (5, (5, 100)), (11, (11, 45)), (250, (250, 2)), (5000, (5000, 1))]
)
def test_any_other_number_of_images_has_loops_too(ipc, pair):
    assert DCConfig().loops(ipc) == pair


def test_loops_can_be_given():
    assert DCConfig(outer_loop=7).loops(10) == (7, 50)
    assert DCConfig(inner_loop=0).loops(10) == (10, 0)
    assert DCConfig(outer_loop=3, inner_loop=4).loops(123) == (3, 4)


def test_images_are_matched_as_they_are(tmp_path):
    """DC has no augmentation while it condenses, whatever the run's strategy."""
    made = []
    for dsa in ("none", "color_crop_cutout_flip_scale_rotate"):
        dc = make_condenser("dc")
        problem = make_problem(dc, tmp_path, dsa=dsa)
        state = dc.init(problem)
        for iteration in range(3):
            dc.step(state, problem, iteration)
        made.append(state["images"])
    assert torch.equal(*made)


@pytest.mark.parametrize("class_batch", [1, 2])
def test_no_more_classes_are_in_memory_than_asked_for(class_batch, tmp_path, monkeypatch):
    """The images of a chunk, and with them its graphs, are gone when the next one is compared."""
    dc = make_condenser("dc", class_batch=class_batch)
    problem = make_problem(dc, tmp_path)
    state = dc.init(problem)
    chunks, earlier, class_losses = [], [], dc.class_losses

    def spy(problem, theta, batch):
        assert not any(reference() is not None for reference in earlier)
        chunks.append(batch.classes.tolist())
        earlier.append(weakref.ref(batch.synthetic))
        assert len(batch.synthetic) == len(batch.real) == len(batch.classes)
        return class_losses(problem, theta, batch)

    monkeypatch.setattr(dc, "class_losses", spy)
    dc.step(state, problem, 0)
    assert chunks == {1: [[0], [1], [2]], 2: [[0, 1], [2]]}[class_batch]


@pytest.mark.parametrize("method", ["dc", "dsa"])
@pytest.mark.parametrize("ipc, loops", [(1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (40, (40, 15)), (100, (100, 2))])
def test_published_rows_have_a_thousand_networks_and_the_published_loops(method, ipc, loops):
    resolved = resolve([Layer("test", {"method": method, "ipc": ipc, "dataset": "cifar10", "recipe": "published"})])
    assert resolved.method.loops(ipc) == loops
    assert resolved.method.iterations == 1000 * loops[0]


def test_a_class_gives_each_image_once_if_it_has_fewer_than_asked_for(tmp_path):
    """Asking for more real images than there are changes nothing: all of them are matched, none of them twice."""
    first = []
    for batch_real in (40, 1000):
        dc = make_condenser("dc", batch_real=batch_real)
        problem = make_problem(dc, tmp_path, dtype=torch.float64)
        state = dc.init(problem)
        dc.step(state, problem, 0)
        first.append(state["images"])
    assert torch.equal(*first)
