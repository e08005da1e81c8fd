from dataclasses import replace

import pytest
import torch
from problems import CLASSES, make_condenser, make_problem, relative_error

from condense.networks import Network
from condense.synthetic import sample_per_class


class Pixels(Network):
    """A network whose embedding is the image itself."""

    def embed(self, theta, x):  # noqa: ARG002
        return x.flatten(1)


def on_pixels(condenser, tmp_path, **problem):
    """The small problem in float64 on pixels, and the mean image of each class."""
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, dsa="none", **problem)
    network = Pixels("convnet:width=4,depth=1", channels=1, size=8, classes=CLASSES, dtype=torch.float64)
    problem = replace(problem, network=network)
    images, labels = problem.preprocessing(problem.data.train.images), problem.data.train.labels
    return problem, torch.stack([images[labels == c].mean(0) for c in range(CLASSES)])


def test_on_pixels_it_ends_at_the_mean_of_each_class(tmp_path):
    """dL/dx = 2 (x - mean) with one image: a step of 1/2 ends at once, and smaller ones in a geometric series."""
    for lr, steps, left in ((0.5, 1, 0.0), (0.1, 5, 0.8**5)):
        dm = make_condenser("dm", lr_img=lr, momentum_img=0.0, batch_real=40)
        problem, means = on_pixels(dm, tmp_path, ipc=1)
        state = dm.init(problem)
        expected = means + left * (state["images"] - means)
        for iteration in range(steps):
            dm.step(state, problem, iteration)
        torch.testing.assert_close(state["images"], expected, rtol=1e-10, atol=1e-12)


def test_on_pixels_the_images_of_a_class_move_together(tmp_path):
    """dL/dx_j = 2/m (mean_s - mean_r) for each of m images: they share one move, here with their mean to the target."""
    m = 4
    dm = make_condenser("dm", lr_img=m / 2, momentum_img=0.0, batch_real=40)
    problem, means = on_pixels(dm, tmp_path, ipc=m)
    state = dm.init(problem)
    before = state["images"].unflatten(0, (CLASSES, m)).clone()
    loss = dm.step(state, problem, 0)["loss"]
    after = state["images"].unflatten(0, (CLASSES, m))
    torch.testing.assert_close(after.mean(1), means, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(after - after.mean(1, True), before - before.mean(1, True), rtol=1e-10, atol=1e-12)
    expected = float((before.mean(1) - means).square().sum())  # over classes and pixels, not averaged
    assert loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("network", ["convnet:width=4,depth=2", "convnet:width=4,depth=2,norm=batch"])
def test_one_iteration_against_a_loop_over_classes(network, tmp_path):
    """Equation 4 with one pass for each class and kind of image, on the draws of the same addresses."""
    dm = make_condenser("dm", batch_real=9, lr_img=1.0)
    problem = make_problem(dm, tmp_path, dtype=torch.float64, network=network, ipc=2)
    state = dm.init(problem)
    stored = state["images"].clone().requires_grad_()

    draws = problem.rng("matching", 5)
    rows = sample_per_class(problem.members, 9, draws).view(CLASSES, 9)
    theta, total = problem.network.init(problem.seed, "network", 5), 0.0
    for c in range(CLASSES):
        record = problem.augmentation.sample(draws, 1, shared=True)
        real, synthetic = (
            problem.network.embed(theta, problem.augmentation.apply(x, record))
            for x in (problem.preprocessing(problem.data.train.images[rows[c]]), stored[2 * c : 2 * c + 2])
        )
        total = total + sum((a - b) ** 2 for a, b in zip(real.mean(0), synthetic.mean(0), strict=True))
    (gradient,) = torch.autograd.grad(total, stored)

    assert dm.step(state, problem, 5)["loss"] == pytest.approx(float(total.detach()), rel=1e-10)
    assert relative_error(stored.detach() - state["images"], gradient) < 1e-10


def test_no_loss_between_a_class_and_itself(tmp_path):
    """The synthetic set is the whole training set, with the same transform on both sides."""
    dm = make_condenser("dm", batch_real=40)
    problem = make_problem(dm, tmp_path, dtype=torch.float64, ipc=40)
    state = dm.init(problem)
    assert dm.step(state, problem, 0)["loss"] < 1e-20


def test_every_iteration_has_a_new_network(tmp_path):
    dm = make_condenser("dm")
    problem = make_problem(dm, tmp_path)
    first, second = (dm.network({}, problem, iteration) for iteration in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(dm.network({}, problem, 0), first)
