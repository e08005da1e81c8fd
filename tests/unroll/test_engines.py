"""The exact adjoint against two full graphs, finite differences, numpy by complex step, and pencil and paper.

And TESLA's approximation against a graph that stops at each theta_i, and the paper's form of it.
"""

import gc
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from oracles.unroll import (
    central_difference,
    complex_step,
    least_squares_gradient,
    train,
    two_layer_loss_gradient,
)
from torch.nn import functional as F

from condense.augment import DSA, FULL_STRATEGY, OPERATIONS
from condense.methods.mtt import inner_batches
from condense.networks import InnerLoss, Network
from condense.objectives import normalised_distance
from condense.rng import generator
from condense.unroll import ENGINES, InnerRun, InnerStep, Unrolled, adjoint, full_graph, tesla, with_higher

CLASSES, SIZE = 3, 8
CONVNETS = [f"convnet:width=8,norm={norm}" for norm in ("none", "instance", "group", "batch", "layer")]
SMOOTH = [f"{spec},activation=swish" for spec in CONVNETS]
RESNET = "resnet18:width=4"
VIEWS = ["images", "labels", "lr"]
EXACT = {name: engine for name, engine in ENGINES.items() if name != "tesla"}


def draw(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, "draw"))


def plain(x):
    return x


@dataclass(frozen=True)
class Case:
    """An inner run on random images, and a target to end at."""

    loss: object
    start: torch.Tensor
    target: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor
    lr: torch.Tensor
    steps: list
    momentum: float = 0.0
    waypoints: dict = field(default_factory=dict)

    def outer(self, end):
        return normalised_distance(end, self.start, self.target)

    def run(self, engine):
        names = ("start", "images", "labels", "lr", "steps", "momentum", "waypoints")
        return engine(InnerRun(InnerLoss(self.loss), self.outer, **{name: getattr(self, name) for name in names}))

    def value(self):
        """The outer loss, from the equations of the inner run."""
        theta, velocity, passed = self.start, 0, 0.0
        for i, step in enumerate(self.steps, 1):
            point = theta.clone().requires_grad_()
            loss = self.loss(point, step.augment(self.images[step.index]), self.labels[step.index])
            velocity = self.momentum * velocity + torch.autograd.grad(loss, point)[0]
            theta = theta - self.lr * velocity
            passed += float(self.waypoints[i](theta)) if i in self.waypoints else 0.0
        return float(self.outer(theta)) + passed

    def moved(self, name, direction):
        return replace(self, **{name: getattr(self, name) + direction})


def two_layers(hidden=6, inputs=2 * SIZE * SIZE):
    """L(theta, x, y) of a network with one tanh layer, and the length of theta."""
    sizes = [inputs * hidden, hidden, hidden * CLASSES, CLASSES]

    def loss(theta, x, y):
        W, b, V, c = theta.split(sizes)
        z = (x.flatten(1) @ W.view(inputs, hidden) + b).tanh() @ V.view(hidden, CLASSES) + c
        return F.cross_entropy(z, y)

    return loss, sum(sizes)


def make(spec="two layers", *, dsa="none", soft=True, momentum=0.0, n=5, batch=3, steps=4, lr=0.3):
    """5 images in batches of 2, 3, 2, 3: short ones first, and every row comes back."""
    if spec == "two layers":
        loss, size = two_layers()
        start = 0.3 * draw(size, seed=1)
    else:
        network = Network(spec, channels=2, size=SIZE, classes=CLASSES, dtype=torch.float64)

        def loss(theta, x, y):
            return F.cross_entropy(network.logits(theta, x), y)

        start = network.init(0, "start")
        start = start + 0.02 * draw(len(start), seed=1)
    draws, augmentation = generator(0, "inner"), DSA(dsa)
    batches = inner_batches(n, batch, draws)
    inner = []
    for _ in range(steps):
        index = next(batches)
        record = augmentation.sample(draws, len(index))
        inner.append(InnerStep(index, lambda x, record=record: augmentation.apply(x, record)))
    return Case(
        loss=loss,
        start=start,
        target=start + 0.05 * draw(len(start), seed=2),
        images=draw(n, 2, SIZE, SIZE, seed=3),
        labels=draw(n, CLASSES, seed=4).softmax(1) if soft else torch.arange(n) % CLASSES,
        lr=torch.tensor(lr, dtype=torch.float64),
        steps=inner,
        momentum=momentum,
    )


def assert_same(actual, expected, tolerance=1e-9):
    for name in ("loss", *VIEWS):
        a, b = getattr(actual, name), getattr(expected, name)
        if b is None:
            assert a is None
        else:
            assert a.shape == b.shape and 0 < b.norm() < torch.inf
            assert (a - b).norm() < tolerance * b.norm(), name


# against the two full graphs

MOMENTA = pytest.mark.parametrize("momentum", [0.0, 0.9])


@MOMENTA
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dsa", ["none", *OPERATIONS, FULL_STRATEGY])
def test_two_layers_with_every_augmentation(dsa, soft, momentum):
    case = make(dsa=dsa, soft=soft, momentum=momentum, steps=6)
    actual = case.run(adjoint)
    for oracle in (full_graph, with_higher):
        assert_same(actual, case.run(oracle))


@MOMENTA
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("spec", [*CONVNETS, RESNET])
def test_networks_with_every_norm(spec, soft, momentum):
    case = make(spec, dsa=FULL_STRATEGY, soft=soft, momentum=momentum)
    actual = case.run(adjoint)
    for oracle in (full_graph, with_higher):
        assert_same(actual, case.run(oracle))


@pytest.mark.parametrize(
    "spec", ["mlp", "lenet", "vgg11:width=4,norm=batch", "resnet18:width=4,norm=batch", "vit:dim=12,depth=1"]
)
def test_the_other_families(spec):
    case = make(spec, momentum=0.5, steps=2, lr=0.05)
    assert_same(case.run(adjoint), case.run(full_graph))


def with_waypoints(case):
    """Losses of theta_1 and theta_3 besides that of the end, towards targets of their own."""
    near, far = (case.start + 0.1 * draw(len(case.start), seed=k) for k in (8, 9))
    return replace(
        case,
        waypoints={
            1: lambda theta: 0.5 * normalised_distance(theta, case.start, near),
            3: lambda theta: (theta - far).square().sum().sqrt(),
        },
    )


@MOMENTA
@pytest.mark.parametrize("spec", ["two layers", CONVNETS[1]])
def test_waypoints(spec, momentum):
    case = with_waypoints(make(spec, dsa="color_crop", momentum=momentum, steps=6))
    actual = case.run(adjoint)
    assert float(actual.loss) == pytest.approx(case.value(), rel=1e-12)
    for oracle in (full_graph, with_higher):
        assert_same(actual, case.run(oracle))
    assert_same(case.run(tesla), stopped(case))


@MOMENTA
def test_finite_differences_with_waypoints(momentum):
    check_differences(with_waypoints(make(momentum=momentum)), step=1e-3)


def test_one_engine_for_each_name():
    assert {"adjoint": adjoint, "graph": full_graph, "higher": with_higher, "tesla": tesla} == ENGINES


# against finite differences


@MOMENTA
@pytest.mark.parametrize("dsa", ["none", *OPERATIONS])
def test_finite_differences_on_two_layers(dsa, momentum):
    check_differences(make(dsa=dsa, momentum=momentum), step=1e-3)


@MOMENTA
@pytest.mark.parametrize("spec", SMOOTH)
def test_finite_differences_on_convnets(spec, momentum):
    check_differences(make(spec, dsa=FULL_STRATEGY, momentum=momentum), step=1e-3)


def test_finite_differences_on_a_residual_network():
    """ReLU has kinks, so the step is short."""
    check_differences(make(RESNET, momentum=0.9, steps=2), step=1e-7)


def check_differences(case, step, pixels=3):
    """Derivatives along random directions, and by single pixels, to a relative error of 1e-6."""
    unrolled = case.run(adjoint)
    for name in VIEWS:
        gradient = getattr(unrolled, name)
        shape = gradient.shape
        directions = [F.normalize(draw(*shape, seed=k), dim=None) for k in (11, 12)]
        if name == "images":
            strongest = gradient.abs().flatten().topk(40).indices[:: 40 // pixels]
            directions += list(torch.eye(gradient.numel(), dtype=torch.float64)[strongest].view(-1, *shape))
        for direction in directions:
            actual = float((gradient * direction).sum())
            expected = central_difference(lambda t, name=name, d=direction: case.moved(name, t * d).value(), step)
            assert abs(actual - expected) < 1e-6 * abs(expected), (name, actual, expected)


# against numpy


@MOMENTA
@pytest.mark.parametrize("soft", [False, True])
def test_two_layers_in_numpy_by_complex_step(soft, momentum):
    """Nothing in common with the engine: gradient by hand, no automatic differentiation."""
    n, d, hidden = 4, 5, 3
    loss, size = two_layers(hidden, d)
    rows = [[0, 1], [2], [3, 0, 0], [1, 2, 3], [0, 2]]
    masks = [draw(len(r), d, seed=k) > -0.5 for k, r in enumerate(rows)]
    case = Case(
        loss=loss,
        start=0.5 * draw(size, seed=5),
        target=draw(size, seed=6),
        images=draw(n, d, seed=7),
        labels=draw(n, CLASSES, seed=8).softmax(1) if soft else torch.arange(n) % CLASSES,
        lr=torch.tensor(0.7, dtype=torch.float64),
        steps=[InnerStep(torch.tensor(r), lambda x, m=m: x * m) for r, m in zip(rows, masks, strict=True)],
        momentum=momentum,
    )
    start, target, images, lr = (t.numpy() for t in (case.start, case.target, case.images, case.lr))
    labels = case.labels.numpy() if soft else np.eye(CLASSES)[case.labels.numpy()]
    steps = [(r, m.numpy()) for r, m in zip(rows, masks, strict=True)]

    def outer(x=images, y=labels, a=lr):
        end = train(two_layer_loss_gradient, start, x, y, a, steps, momentum)
        return ((end - target) ** 2).sum() / ((start - target) ** 2).sum()

    actual = case.run(adjoint)
    np.testing.assert_allclose(actual.loss, outer(), rtol=1e-12)
    np.testing.assert_allclose(actual.images, complex_step(lambda x: outer(x=x), images), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(actual.lr, complex_step(lambda a: outer(a=a), lr), rtol=1e-10)
    if soft:
        np.testing.assert_allclose(actual.labels, complex_step(lambda y: outer(y=y), labels), rtol=1e-10, atol=1e-14)


def least_squares(theta, x, y):
    return (x @ theta - y).square().mean() / 2


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_one_step_on_least_squares_is_known_in_closed_form(engine):
    """With r = X t0 - y, t1 = t0 - (a/n) X'r and lam = 2 (t1 - t*) / |t0 - t*|^2:
    dX = -(a/n) (r lam' + X lam t0'), dy = (a/n) X lam, da = -lam'X'r / n."""
    n, d, a = 6, 4, 0.3
    images, labels, start, target = draw(n, d, seed=1), draw(n, seed=2), draw(d, seed=3), draw(d, seed=4)
    case = Case(
        least_squares,
        start,
        target,
        images,
        labels,
        torch.tensor(a, dtype=torch.float64),
        [InnerStep(torch.arange(n), plain)],
    )
    actual = case.run(engine)

    X, y, t0, goal = (t.numpy() for t in (images, labels, start, target))
    r = X @ t0 - y
    t1 = t0 - a / n * X.T @ r
    lam = 2 * (t1 - goal) / ((t0 - goal) ** 2).sum()
    np.testing.assert_allclose(actual.loss, ((t1 - goal) ** 2).sum() / ((t0 - goal) ** 2).sum(), rtol=1e-12)
    np.testing.assert_allclose(actual.images, -a / n * (np.outer(r, lam) + np.outer(X @ lam, t0)), rtol=1e-12)
    np.testing.assert_allclose(actual.labels, a / n * X @ lam, rtol=1e-12)
    np.testing.assert_allclose(actual.lr, -lam @ X.T @ r / n, rtol=1e-12)


@pytest.mark.parametrize("engine", EXACT.values(), ids=EXACT)
@MOMENTA
def test_many_steps_on_least_squares(engine, momentum):
    n, d = 5, 3
    images, labels, start, target = draw(n, d, seed=1), draw(n, seed=2), draw(d, seed=3), draw(d, seed=4)
    rows = [[0], [1, 2, 3], [4, 0], [2, 2, 1]] * 3
    lr = torch.tensor(0.05, dtype=torch.float64)
    steps = [InnerStep(torch.tensor(r), plain) for r in rows]
    actual = Case(least_squares, start, target, images, labels, lr, steps, momentum).run(engine)

    X, y, t0, goal = (t.numpy() for t in (images, labels, start, target))

    def outer(X=X, y=y, a=0.05):
        end = train(least_squares_gradient, t0, X, y, a, [(r, 1.0) for r in rows], momentum)
        return ((end - goal) ** 2).sum() / ((t0 - goal) ** 2).sum()

    np.testing.assert_allclose(actual.images, complex_step(lambda X: outer(X=X), X), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(actual.labels, complex_step(lambda y: outer(y=y), y), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(actual.lr, complex_step(lambda a: outer(a=a), lr), rtol=1e-10)


# TESLA, and what the curvature adds


def stopped(case):
    """Loss and derivatives of a full graph in which theta_i does not depend on the set; g_i does, through x and y."""
    images, lr = case.images.clone().requires_grad_(), case.lr.clone().requires_grad_()
    labels = case.labels.clone().requires_grad_(case.labels.is_floating_point())
    theta, velocity, passed = case.start.clone(), 0, 0.0
    for i, step in enumerate(case.steps, 1):
        point = theta.detach().requires_grad_()
        loss = case.loss(point, step.augment(images[step.index]), labels[step.index])
        velocity = case.momentum * velocity + torch.autograd.grad(loss, point, create_graph=True)[0]
        theta = theta - lr * velocity
        passed = passed + (case.waypoints[i](theta) if i in case.waypoints else 0.0)
    outer = case.outer(theta) + passed
    leaves = [leaf for leaf in (images, lr, labels) if leaf.requires_grad]
    d_images, d_lr, *d_labels = torch.autograd.grad(outer, leaves)
    return Unrolled(outer.detach(), d_images, d_labels[0] if d_labels else None, d_lr)


@MOMENTA
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("spec", ["two layers", *CONVNETS])
def test_tesla_is_the_graph_that_stops_at_every_theta(spec, soft, momentum):
    case = make(spec, dsa="crop_color_rotate", soft=soft, momentum=momentum, steps=6)
    assert_same(case.run(tesla), stopped(case))


def test_tesla_is_what_the_paper_adds_up_image_by_image():
    """dL/dx_i of [lr^2 <g_i, g_i> + 2 lr <g_i, lr (G - g_i) - theta_0 + target>] / D, with G a constant."""
    case = make(SMOOTH[1], dsa="color", steps=5)
    theta, gradients = case.start, []
    for step in case.steps:
        point = theta.clone().requires_grad_()
        loss = case.loss(point, step.augment(case.images[step.index]), case.labels[step.index])
        gradients.append(torch.autograd.grad(loss, point)[0])
        theta = theta - case.lr * gradients[-1]
    G, a, D = sum(gradients), case.lr, (case.start - case.target).square().sum()
    expected, theta = torch.zeros_like(case.images), case.start
    for step in case.steps:
        images, point = case.images.clone().requires_grad_(), theta.clone().requires_grad_()
        loss = case.loss(point, step.augment(images[step.index]), case.labels[step.index])
        (g,) = torch.autograd.grad(loss, point, create_graph=True)
        rest = a * (G - g.detach()) - case.start + case.target
        expected += torch.autograd.grad((a**2 * g @ g + 2 * a * g @ rest) / D, images)[0]
        theta = theta - a * g.detach()
    actual = case.run(tesla)
    torch.testing.assert_close(actual.images, expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(actual.lr, -2 * G @ (case.start - a * G - case.target) / D, rtol=1e-9, atol=0)


@MOMENTA
def test_tesla_is_exact_for_one_step_and_for_no_other_number(momentum):
    """No factor is lost at N = 1; from then on the Hessian terms are missing, and the more so the longer the run."""
    one = make(SMOOTH[1], dsa="color", momentum=momentum, steps=1, lr=0.5)
    assert_same(one.run(tesla), one.run(adjoint))
    errors = []
    for steps in (2, 4, 8):
        case = make(SMOOTH[1], dsa="color", momentum=momentum, steps=steps, lr=0.5)
        biased, exact = case.run(tesla), case.run(adjoint)
        assert biased.loss == exact.loss
        errors.append(float((biased.images - exact.images).norm() / exact.images.norm()))
    assert 0.01 < errors[0] < errors[1] < errors[2]


@MOMENTA
def test_tesla_misses_nothing_where_there_is_no_curvature(momentum):
    """A loss that is linear in theta has no Hessian, so no gradient depends on the steps before it."""
    case = Case(
        loss=lambda theta, x, y: y @ x.sin() @ theta / len(x),
        start=draw(4, seed=3),
        target=draw(4, seed=4),
        images=draw(6, 4, seed=1),
        labels=draw(6, seed=2),
        lr=torch.tensor(0.3, dtype=torch.float64),
        steps=[InnerStep(torch.tensor(rows), plain) for rows in ([0, 1], [2, 3, 4], [5, 0])],
        momentum=momentum,
    )
    assert_same(case.run(tesla), case.run(adjoint))


def test_the_exact_engine_does_not_take_the_shortcut():
    case = make(SMOOTH[1], dsa="color", steps=6, lr=0.5)
    exact, biased = case.run(adjoint).images, stopped(case).images
    assert F.cosine_similarity(exact.flatten(), biased.flatten(), 0) < 0.98


# rows, chunks and what is left alone


def test_a_row_in_several_steps_gets_the_sum_of_its_derivatives():
    """The same run with a copy of the row for every use, in one step and in several."""
    rows = [[0, 1, 0], [1, 2], [0], [2, 1, 0, 1]]
    case = replace(make(momentum=0.9), steps=[InnerStep(torch.tensor(r), plain) for r in rows])
    flat = torch.tensor([row for r in rows for row in r])
    copies = torch.arange(len(flat)).split([len(r) for r in rows])
    spread = replace(
        case, images=case.images[flat], labels=case.labels[flat], steps=[InnerStep(c, plain) for c in copies]
    )
    actual, single = case.run(adjoint), spread.run(adjoint)
    for row in range(3):
        uses = flat == row
        torch.testing.assert_close(actual.images[row], single.images[uses].sum(0), rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(actual.labels[row], single.labels[uses].sum(0), rtol=1e-9, atol=1e-13)
    assert actual.images[3:].count_nonzero() == 0 and actual.labels[3:].count_nonzero() == 0


def test_a_batch_larger_than_the_set_is_the_whole_set():
    large, exact = make(batch=50), make(batch=None)
    assert [len(step.index) for step in large.steps] == [5] * 4
    assert_same(large.run(adjoint), exact.run(adjoint), 1e-15)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_inputs_are_left_alone(engine, requires_grad):
    case = make(SMOOTH[1], dsa="color_flip", momentum=0.9)
    inputs = [case.start, case.target, case.images, case.labels, case.lr]
    inputs += [step.index for step in case.steps]
    copies, versions = [t.clone() for t in inputs], [t._version for t in inputs]
    for t in (case.images, case.labels, case.lr):
        t.requires_grad_(requires_grad)
    unrolled = case.run(engine)
    assert all(torch.equal(t, copy) for t, copy in zip(inputs, copies, strict=True))
    assert [t._version for t in inputs] == versions
    assert all(t.grad is None and t.grad_fn is None for t in inputs)
    assert [t.requires_grad for t in inputs[2:5]] == [requires_grad] * 3 and not case.start.requires_grad
    assert not any(getattr(unrolled, name).requires_grad for name in ("loss", *VIEWS))


@pytest.mark.parametrize("spec", ["two layers", CONVNETS[3], RESNET])
def test_two_calls_give_the_same_bits(spec):
    case = make(spec, dsa=FULL_STRATEGY, momentum=0.9)
    first, second = case.run(adjoint), case.run(adjoint)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("loss", *VIEWS))


def test_nothing_is_drawn_from_the_global_generator():
    case = make(SMOOTH[1], dsa=FULL_STRATEGY)
    before = torch.get_rng_state()
    for engine in ENGINES.values():
        case.run(engine)
    assert torch.equal(torch.get_rng_state(), before)


# memory


def most_saved(engine, steps):
    """The largest number of tensors that graphs hold at once."""
    alive, most = weakref.WeakSet(), 0

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor

    def pack(tensor):
        nonlocal most
        saved = Saved(tensor)
        alive.add(saved)
        most = max(most, len(alive))
        return saved

    case = make(SMOOTH[1], dsa="color", momentum=0.9, steps=steps)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        case.run(engine)
    return most


def test_graphs_do_not_grow_with_the_steps():
    assert most_saved(full_graph, 9) > 2.5 * most_saved(full_graph, 3)
    assert most_saved(adjoint, 9) == most_saved(adjoint, 3) < most_saved(full_graph, 3)


def test_nothing_but_the_result_stays_alive():
    """Without the garbage collector, so that a reference cycle would be seen."""

    def count():
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    case = make(SMOOTH[1], dsa="crop_color", momentum=0.9)
    case.run(adjoint)
    gc.collect()
    gc.disable()
    try:
        before = count()
        for _ in range(3):
            unrolled = case.run(adjoint)
        del unrolled
        assert count() == before
    finally:
        gc.enable()
