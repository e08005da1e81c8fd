import pytest
import torch
from oracles import gradient as oracle
from problems import CLASSES, make_condenser, make_problem, relative_error

from condense import augment
from condense.methods import matching
from condense.synthetic import sample_per_class

FULL = "color_crop_cutout_flip_scale_rotate"


def test_one_iteration_against_double_backward(tmp_path):
    """Equation 5: for each class a record that its real and its synthetic images share."""
    dsa = make_condenser("dsa", batch_real=7, lr_img=1.0)
    problem = make_problem(dsa, tmp_path, dtype=torch.float64, dsa=FULL)
    state = dsa.init(problem)
    stored = state["images"].clone().requires_grad_()
    draws = problem.rng("matching", 3)
    rows = sample_per_class(problem.members, 7, draws).chunk(CLASSES)
    real, synthetic = [], []
    for c in range(CLASSES):
        record = problem.augmentation.sample(draws, 1, shared=True)
        images = problem.preprocessing(problem.data.train.images[rows[c]])
        real.append(problem.augmentation.apply(images, record))
        synthetic.append(problem.augmentation.apply(stored[2 * c : 2 * c + 2], record))
    theta = problem.network.init(problem.seed, "network", 1)
    loss = oracle.matching(problem.network, theta, real, synthetic)
    (gradient,) = torch.autograd.grad(loss, stored)
    assert dsa.step(state, problem, 3)["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    assert relative_error(stored.detach() - state["images"], gradient) < 1e-9


def test_real_and_synthetic_images_of_a_class_share_a_record_and_classes_do_not(tmp_path, monkeypatch):
    seen, apply_groups = [], matching.apply_groups

    def spy(x, records):
        seen.append((x.shape[1], list(records)))
        return apply_groups(x, records)

    monkeypatch.setattr(matching, "apply_groups", spy)
    dsa = make_condenser("dsa", batch_real=7)
    problem = make_problem(dsa, tmp_path, dsa=FULL)
    state = dsa.init(problem)
    for iteration in range(2):
        dsa.step(state, problem, iteration)
    assert [images for images, _ in seen] == [7, 2, 7, 2]
    everything = []
    for (_, of_real), (_, of_synthetic) in (seen[:2], seen[2:]):
        assert len(of_real) == len(of_synthetic) == CLASSES
        for a, b in zip(of_real, of_synthetic, strict=True):
            assert a.operation == b.operation and torch.equal(a.u, b.u) and a.u.shape == (1, 3)
        everything += [tuple(record.u[0].tolist()) for record in of_real]
    assert len(set(everything)) == 2 * CLASSES, "drawn anew for each class and iteration"


def test_the_network_is_trained_on_images_that_are_augmented_one_by_one(tmp_path, monkeypatch):
    batches, original = [], augment.DSA.augment

    def spy(self, x, generator):
        augmented = original(self, x, generator)
        batches.append((x, augmented))
        return augmented

    monkeypatch.setattr(augment.DSA, "augment", spy)
    dsa = make_condenser("dsa", outer_loop=2, inner_loop=4, batch_train=5, lr_net=0.1)
    problem = make_problem(dsa, tmp_path, dtype=torch.float64, dsa="crop_rotate")
    state = dsa.init(problem)
    theta = problem.network.init(problem.seed, "network", 0)
    dsa.step(state, problem, 0)
    assert [len(x) for x, _ in batches] == [5, 1] * 4
    images, labels, training = state["images"], torch.tensor([0, 0, 1, 1, 2, 2]), []
    for x, augmented in batches:
        rows = torch.tensor([int((images - image).abs().flatten(1).sum(1).argmin()) for image in x])
        assert torch.equal(images[rows], x), "the images as they are after their update"
        training.append((augmented, labels[rows]))
    assert relative_error(state["theta"], oracle.train(problem.network, theta, training, 0.1)) < 1e-9

    batches.clear()
    dsa.step(state, problem, 1)
    assert not batches, "another network follows"


def test_a_batch_of_equal_images_is_not_augmented_equally(tmp_path):
    """Parameters for each image, when the network is trained."""
    dsa = make_condenser("dsa")
    problem = make_problem(dsa, tmp_path, dsa="rotate")
    (stage,) = dsa.augmentations(problem)
    x = dsa.init(problem)["images"][:1].expand(5, -1, -1, -1)
    assert len({tuple(image.flatten().tolist()) for image in stage.augment(x, problem.rng("training"))}) == 5


def test_without_operators_it_is_dc_bit_for_bit(tmp_path):
    states = []
    for name in ("dc", "dsa"):
        condenser = make_condenser(name, init="real")
        problem = make_problem(condenser, tmp_path, dsa="none")
        state = condenser.init(problem)
        for iteration in range(4):
            condenser.step(state, problem, iteration)
        states.append(state)
    of_dc, of_dsa = states
    assert of_dc.keys() == of_dsa.keys()
    assert all(torch.equal(of_dc[key], of_dsa[key]) for key in of_dc)
