import math
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy
import pytest
import torch
from problems import blobs, make_condenser, make_problem, relative_error
from torch.nn import functional as F

from condense import api
from condense.artifact import load_artifact, stored_bytes
from condense.config import Layer, resolve
from condense.methods.infer import InferConfig

ONE = ("convnet:width=4,depth=2,norm=batch",)


def small(**values):
    """With two teachers; for ipc = 4 and 3 classes it has 2 groups."""
    return make_condenser("infer", **{"teachers": ONE * 2, "teacher_epochs": 1} | values)


def moved(condenser, problem, iterations=3):
    state = condenser.init(problem)
    for iteration in range(iterations):
        condenser.step(state, problem, iteration)
    return state


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7, 25])
@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_the_budget_by_enumeration(classes, m):
    """K is the most groups whose images and compensators are no more than ipc images of each class."""
    config = InferConfig(teachers=ONE * m)
    enough = None
    for ipc in range(1, 61):
        fitting = [k for k in range(ipc + 1) if k * classes + k * m <= ipc * classes]
        assert config.groups(ipc, classes) == max(fitting) == math.floor(ipc / (1 + Fraction(m, classes)))
        found = config.misfits(ipc, classes, 0)
        assert bool(found) == (max(fitting) == 0)
        if not found and enough is None:
            enough = ipc
    (words,) = config.misfits(1, classes, 0)
    assert words.endswith(f"Choose ipc >= {enough}")


def test_the_published_budget():
    assert InferConfig().groups(10, 10) == 7 and InferConfig().groups(50, 100) == 48


def test_a_budget_of_less_than_a_group_is_refused_before_any_work():
    given = {"method": "infer", "recipe": "none", "ipc": 1, "teachers": ["resnet18:norm=batch"] * 3}
    with pytest.raises(ValueError, match=r"ipc = 1: .* 10 \+ 3 images, more than 1 x 10\. Choose ipc >= 2"):
        api.prepare(resolve([Layer("test", given)]))
    api.prepare(resolve([Layer("test", given | {"ipc": 2})]))


def test_as_many_real_images_of_each_class_as_there_are_groups_are_enough(tmp_path, monkeypatch):
    """Of three classes with one teacher: ipc = 4 takes three images of each, ipc = 6 four."""
    monkeypatch.chdir(tmp_path)
    data = blobs(per_class=3)
    arrays = {"x_train": data.train.images, "y_train": data.train.labels}
    arrays |= {"x_test": data.test.images, "y_test": data.test.labels}
    numpy.savez("few.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    given = {"method": "infer", "dataset": "npz:few.npz", "validation": 0.0, "teachers": list(ONE), "recipe": "none"}
    assert [InferConfig(teachers=ONE).groups(ipc, 3) for ipc in (4, 6)] == [3, 4]
    api.prepare(resolve([Layer("test", given | {"ipc": 4})]))
    with pytest.raises(ValueError, match=r"ipc = 6: .* has only 3 training images .* 4 are needed\. Choose ipc <= 4"):
        api.prepare(resolve([Layer("test", given | {"ipc": 6})]))


def test_it_starts_from_the_first_images_that_random_draws(tmp_path):
    condenser = small()
    problem = make_problem(condenser, tmp_path, ipc=4)
    state, drawn = condenser.init(problem), make_condenser("random").init(problem)["images"]
    assert torch.equal(state["images"], drawn.unflatten(0, (3, 4))[:, :2].flatten(0, 1))
    assert state["compensators"].shape == (4, 1, 8, 8) and not state["compensators"].any()


@pytest.mark.parametrize("labels", ["static", "dynamic"])
def test_compensators_are_the_same_for_all_classes(labels, tmp_path):
    condenser = small(labels=labels)
    problem = make_problem(condenser, tmp_path, ipc=4)
    state = moved(condenser, problem)
    made = condenser.distilled(state, problem)
    assert torch.equal(made.images, condenser.init(problem)["images"]) and made.compensators.shape == (2, 2, 1, 8, 8)
    decoded = made.decoded().images.view(3, 2, 3, 1, 8, 8)  # class, group, itself and its sums
    assert torch.equal(decoded[:, :, 0].flatten(0, 1), made.images)
    differences = decoded[:, :, 1:] - decoded[:, :, :1]
    for c, k, j in product(range(3), range(2), range(2)):
        torch.testing.assert_close(differences[c, k, j], made.compensators[k, j], atol=1e-5, rtol=0)
    apart = made.compensators.flatten(0, 1)
    assert all(not torch.equal(apart[a], apart[b]) for a in range(4) for b in range(a))


def test_each_image_has_its_class(tmp_path):
    """That of the nearest real image, which is its own while compensators have hardly moved."""
    condenser = small(labels="dynamic", lr_img=1e-4)
    problem = make_problem(condenser, tmp_path, ipc=4)
    decoded = condenser.distilled(moved(condenser, problem), problem).decoded()
    train = problem.inputs[torch.arange(len(problem.inputs))].flatten(1)
    nearest = torch.cdist(decoded.images.flatten(1), train).argmin(1)
    assert decoded.labels.tolist() == problem.data.train.labels[nearest].tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_the_gradient_is_the_sum_over_the_copies(tmp_path):
    """A copy of each compensator for each class, explicitly, through the loss of its own teacher."""
    condenser = small(jitter=2)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, ipc=4)
    black, white = (float(problem.preprocessing(torch.full((1, 1, 8, 8), pixel)).mean()) for pixel in (0.0, 1.0))
    state = condenser.init(problem)
    state["compensators"] = torch.randn(4, 1, 8, 8, generator=problem.rng("test"), dtype=torch.float64)
    loss, gradient = condenser.gradient(state, problem, 5)
    losses = []
    for number, (k, j) in enumerate(product(range(2), range(2))):
        copies = state["compensators"][number].expand(3, 1, 8, 8).clone().requires_grad_()
        x = torch.stack([state["images"][2 * c + k] + copies[c] for c in range(3)])
        assert float(x.detach().min()) < black and float(x.detach().max()) > white  # pixels do not limit the loss
        down, right = torch.randint(3, (2,), generator=problem.rng(f"recover.{number}", 5)).tolist()
        logits, distance = problem.pool[j].describe(x.roll((down, right), (2, 3)))
        losses.append(F.cross_entropy(logits, torch.arange(3)) + 0.1 * distance)
        (of_copies,) = torch.autograd.grad(losses[-1], copies)
        assert relative_error(gradient[number], of_copies.sum(0)) < 1e-12
    assert float(loss) == pytest.approx(float(sum(losses).detach()) / 4)


def test_iterations_by_hand(tmp_path):
    """With torch's Adam, a compensator at a time, and hooks on the batch norms."""
    condenser = small(jitter=0, iterations=8, lr_img=0.3, r_bn=0.7)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, ipc=4)
    state, seen = moved(condenser, problem, 4), []
    images = condenser.init(problem)["images"]
    for teacher in problem.pool:
        for part in teacher.module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.register_forward_hook(lambda norm, inputs, _output: seen.append((norm, inputs[0])))
    for number, (k, j) in enumerate(product(range(2), range(2))):
        u = torch.zeros(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([u], lr=0.3, betas=(0.5, 0.9), eps=1e-8)
        for iteration in range(4):
            adam.param_groups[0]["lr"] = 0.15 * (1 + math.cos(math.pi * iteration / 8))
            seen.clear()
            loss = F.cross_entropy(problem.pool[j].module(images[k::2] + u), torch.arange(3))
            for layer, (norm, x) in enumerate(seen):
                over = x.transpose(0, 1).flatten(1)
                mean, variance = over.mean(1), over.var(1, correction=0)
                apart = (mean - norm.running_mean).norm() + (variance - norm.running_var).norm()
                loss = loss + 0.7 * (10 if layer == 0 else 1) * apart
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert relative_error(state["compensators"][number], u.detach()[0]) < 1e-9


def test_a_compensator_is_made_by_its_own_teacher_alone(tmp_path):
    condenser = small()
    problem = make_problem(condenser, tmp_path, ipc=4)
    whole = moved(condenser, problem)["compensators"]
    other = replace(problem, pool=(problem.pool[0], problem.pool[0]))
    changed = moved(condenser, other)["compensators"]
    assert torch.equal(whole[0::2], changed[0::2]) and not torch.equal(whole[1::2], changed[1::2])


def test_static_labels_by_hand(tmp_path):
    """softmax of the mean of the logits, of each image as it is."""
    condenser = small()
    problem = make_problem(condenser, tmp_path, ipc=4)
    made = condenser.distilled(moved(condenser, problem), problem)
    assert made.store is None and made.labels.shape == (18, 3)
    with torch.no_grad():
        logits = [teacher.module(made.decoded().images) for teacher in problem.pool]
    torch.testing.assert_close(made.labels, ((logits[0] + logits[1]) / 2).softmax(1))


def test_dynamic_labels_are_mean_logits_of_mixed_views(tmp_path):
    condenser = small(labels="dynamic", label_epochs=2, label_batch=8)
    problem = make_problem(condenser, tmp_path, ipc=4)
    made = condenser.distilled(moved(condenser, problem), problem)
    store, images = made.store, made.decoded().images
    assert store.values.shape == (2, 18, 3) and store.kind == "logits" and store.fault(18, 8, 3) is None
    assert (store.views.patches == 0).all() and bool((store.views.shares < 1).all())  # MixUp
    assert (store.views.boxes[..., 2:] == 8).all() and bool(store.views.boxes[..., :2].any())  # shifted, whole
    for epoch in range(2):
        for k, part in enumerate(store.views.batches):
            x = store.views.show(images, epoch, k).x
            with torch.no_grad():
                live = sum(teacher.module(x) for teacher in problem.pool) / 2
            torch.testing.assert_close(store.values[epoch, part].float(), live, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("labels", ["static", "dynamic"])
def test_a_run_keeps_to_its_budget_and_its_set_comes_back(labels, tmp_path, monkeypatch):
    """On `digits`: 2 groups of 10 images, with 2 compensators each, where there are 3 images of each class."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    settings = {
        "recipe": "none",
        "teachers": list(ONE * 2),
        "teacher_epochs": 1,
        "iterations": 2,
        "labels": labels,
        **({} if labels == "static" else {"label_epochs": 2}),
        "network": "mlp",
        "compile": "off",
        "protocol": "kd_small",
        "eval_repeats": 1,
        "baselines": (),
    }
    run = api.distill("infer", 3, out=tmp_path / "run", full_data=False, **settings)
    artifact = load_artifact(run.artifact)
    assert artifact.manifest.images.shape == (20, 1, 8, 8) and artifact.manifest.images.compensators == (2, 2)
    assert len(artifact) == 60 and artifact.stored.compensators.any()
    assert stored_bytes(artifact.manifest)["images"] == (20 + 4) * 64 * 4 <= 3 * 10 * 64 * 4
    assert run.evaluations[0].epochs == (100 if labels == "static" else 2)
