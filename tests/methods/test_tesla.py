"""TESLA as a method. Its gradient is tested in tests/unroll."""

import pytest
import torch
from problems import assert_same_bits, blobs, make_condenser, make_problem, relative_error, states
from torch.nn import functional as F

from condense.config import Layer, resolve
from condense.errors import ConfigError
from condense.methods import METHODS
from condense.methods.mtt import MTT
from condense.methods.tesla import TESLAConfig
from condense.synthetic import decode

LABELLED = {"teacher_label": True, "label_expert": 1, "syn_steps": 3}


def test_with_the_exact_gradient_and_hard_labels_it_is_mtt_bit_for_bit(tmp_path):
    mtt, tesla = make_condenser("mtt"), make_condenser("tesla", syn_steps=3, lr_teacher=0.03, unroll="adjoint")
    problem = make_problem(mtt, tmp_path)
    for one, other in zip(states(mtt, problem), states(tesla, problem), strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("steps", [1, 3])
def test_its_own_gradient_is_that_of_mtt_for_one_step_alone(steps, tmp_path):
    mtt = make_condenser("mtt", syn_steps=steps, lr_teacher=0.5)
    tesla = make_condenser("tesla", syn_steps=steps, lr_teacher=0.5)
    problem = make_problem(mtt, tmp_path, dtype=torch.float64)
    (start, exact), (_, approximate) = (list(states(condenser, problem, 1)) for condenser in (mtt, tesla))
    moves = [after["images"] - start["images"] for after in (approximate, exact)]
    assert (relative_error(*moves) < 1e-12) == (steps == 1)


def test_it_alone_takes_the_approximate_gradient_unless_told_otherwise():
    engines = {name: method.Config().unroll for name, method in METHODS.items() if issubclass(method, MTT)}
    assert engines == {name: "tesla" if name == "tesla" else "adjoint" for name in engines}
    assert {"mtt", "ftd", "tesla", "datm", "pad", "ast"} <= engines.keys()


# labels


@pytest.mark.parametrize("views", [{}, {"flip": True}, {"factor": 2}, {"flip": True, "factor": 2, "ema_decay": 0.5}])
def test_the_labels_are_those_of_the_stated_expert_for_the_images_that_are_handed_over(views, tmp_path):
    """At every iteration, the first included: the mean logits over an image's views, at temperature 1."""
    condenser = make_condenser("tesla", **LABELLED, label_epoch=1, **views)
    problem = make_problem(condenser, tmp_path)
    theta = problem.experts.snapshot(1, 1)
    for state in states(condenser, problem, 3):
        made = condenser.distilled(state, problem)
        assert made.labels.dtype == torch.float32
        for image, label in zip(made.images, made.labels, strict=True):
            shown = decode(image[None], condenser.config.factor)
            shown = torch.cat([shown, shown.flip(3)]) if condenser.config.flip else shown
            expected = problem.network.logits(theta, shown).mean(0).softmax(0)
            torch.testing.assert_close(label, expected, rtol=1e-5, atol=1e-6)


def test_they_match_with_the_labels_of_the_segments_own_target(tmp_path):
    """One inner step, with a full graph through the step and none through the labels."""
    condenser = make_condenser("tesla", **LABELLED | {"syn_steps": 1}, lr_img=1.0)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, dsa="none")
    start = condenser.init(problem)
    (segment,) = condenser.segments(problem, 2)
    images = start["images"].clone().requires_grad_()
    labels = problem.network.logits(segment.target, start["images"]).softmax(1)
    theta = segment.start.clone().requires_grad_()
    loss = F.cross_entropy(problem.network.logits(theta, images), labels)
    (g,) = torch.autograd.grad(loss, theta, create_graph=True)
    end = segment.start - condenser.config.lr_teacher * g
    matching = (end - segment.target).square().sum() / (segment.start - segment.target).square().sum()
    (gradient,) = torch.autograd.grad(matching, images)
    matching = float(matching.detach())
    state = {key: tensor.clone() for key, tensor in start.items()}
    assert condenser.step(state, problem, 2)["loss"] == pytest.approx(matching, rel=1e-10)
    assert relative_error(start["images"] - state["images"], gradient) < 1e-9


@pytest.mark.parametrize(("classes", "ipc"), [(2, 1), (3, 4), (5, 12)])
def test_labels_need_no_particular_number_of_images_or_classes(classes, ipc, tmp_path):
    """The released code labels images 50 at a time and has nothing to join for fewer."""
    condenser = make_condenser("tesla", **LABELLED, batch_syn=7)
    problem = make_problem(condenser, tmp_path, ipc=ipc, data=blobs(per_class=12, classes=classes))
    *_, last = states(condenser, problem, 2)
    labels = condenser.distilled(last, problem).labels
    assert labels.shape == (classes * ipc, classes)
    torch.testing.assert_close(labels.sum(1), torch.ones(classes * ipc))


def test_labelled_sets_resume_to_the_same_bits(tmp_path):
    condenser = make_condenser("tesla", **LABELLED)
    problem = make_problem(condenser, tmp_path)
    *_, half, _, whole = states(condenser, problem)
    for iteration in (2, 3):
        condenser.step(half, problem, iteration)
    assert all(torch.equal(half[key], whole[key]) for key in whole)


def test_experts_reach_the_epoch_of_the_labels():
    reach = {"max_start_epoch": 3, "expert_epochs": 2}
    labels = reach | {"teacher_label": True}
    assert TESLAConfig(**labels).expert_plan("none").epochs == TESLAConfig(**labels).labelled_at == 4
    assert TESLAConfig(**labels, label_epoch=2).expert_plan("none").epochs == 4
    assert TESLAConfig(**labels, label_epoch=9).expert_plan("none").epochs == 9
    assert TESLAConfig(**reach, label_epoch=9).expert_plan("none").epochs == 4


def test_an_expert_that_is_not_there_is_refused_where_it_is_to_label():
    values = {"method": "tesla", "recipe": "none", "num_experts": 3, "label_expert": 3}
    with pytest.raises(ConfigError, match=r"label_expert = 3: there are num_experts = 3 experts, 0 .. 2"):
        resolve([Layer("--set", values | {"teacher_label": True})])
    assert not resolve([Layer("--set", values)]).method.uses_label_epoch
