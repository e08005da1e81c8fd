import pytest
import torch
from problems import make_condenser, make_problem

from condense.augment import draw_boxes
from condense.config import Layer, resolve
from condense.methods.sre2l import SRe2LConfig


def test_defaults_are_those_of_cifar():
    """Published: Adam 0.25 with (0.5, 0.9), r_bn 0.01, 1000 iterations, whole images rolled by up to 4 pixels."""
    c = SRe2LConfig()
    assert (c.lr_img, c.momentum_img, c.r_bn, c.iterations, c.jitter, c.view) == (0.25, 0.5, 0.01, 1000, 4, "whole")
    (plan,) = c.plans("crop_flip")
    assert (plan.lr, plan.momentum, plan.weight_decay, plan.batch, plan.epochs) == (0.1, 0.9, 5e-4, 128, 200)
    assert plan.mirrored and not c.plans("crop")[0].mirrored


def test_its_labels_are_what_the_teacher_says_of_the_views(tmp_path):
    """Played back, and computed anew with the module itself."""
    condenser = make_condenser("sre2l", label_epochs=2)
    problem = make_problem(condenser, tmp_path, ipc=3)
    made = condenser.distilled(condenser.init(problem), problem)
    assert made.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and made.store.group is None
    module = problem.pool[0].module
    for epoch in range(2):
        for k, part in enumerate(made.store.views.batches):
            batch = made.store.views.show(made.images, epoch, k)
            with torch.no_grad():
                live = module(batch.x)
            torch.testing.assert_close(made.store.values[epoch, part].float(), live, atol=2e-3, rtol=2e-3)


def test_labels_by_batch_differ_and_keep_to_their_group(tmp_path):
    plain = make_condenser("sre2l", label_batch=6)
    by_batch = make_condenser("sre2l", label_batch=6, label_bn="batch", label_group=3)
    problem = make_problem(plain, tmp_path)
    state = plain.init(problem)
    one, other = (condenser.distilled(state, problem).store for condenser in (plain, by_batch))
    assert other.group == 3 and not torch.equal(one.values, other.values)
    batch = other.views.show(state["images"], 0, 0)
    (teacher,) = problem.pool
    expected = torch.cat([teacher.logits(batch.x[:3], bn="batch"), teacher.logits(batch.x[3:], bn="batch")])
    torch.testing.assert_close(other.values[0].float(), expected, atol=2e-3, rtol=2e-3)


def test_labels_have_addresses_of_their_own(tmp_path):
    """More epochs add to the store, and change nothing of what it had."""
    stores = []
    for epochs in (2, 4):
        condenser = make_condenser("sre2l", label_epochs=epochs)
        problem = make_problem(condenser, tmp_path)
        stores.append(condenser.distilled(condenser.init(problem), problem).store)
    assert torch.equal(stores[0].values, stores[1].values[:2])
    assert torch.equal(stores[0].views.boxes, stores[1].views.boxes[:2])


@pytest.mark.parametrize("key", ["precision", "micro_batch", "memory_limit", "compile"])
def test_keys_that_do_not_apply_are_refused(key):
    from condense import api

    given = {"precision": "bf16", "micro_batch": 4, "memory_limit": 1.0, "compile": "on"}
    resolved = resolve([Layer("test", {"method": "sre2l", "recipe": "none", key: given[key]})])
    with pytest.raises(ValueError, match=rf"{key} = .* does not apply to method 'sre2l'"):
        api.prepare(resolved)


def test_a_teacher_that_takes_no_such_images_is_refused_before_any_work():
    from condense import api

    resolved = resolve([Layer("test", {"method": "sre2l", "recipe": "none", "teachers": ["torchvision:alexnet"]})])
    with pytest.raises(ValueError, match="cannot take 1-channel images of 8 px"):
        api.prepare(resolved)
    with pytest.raises(ValueError, match=r"unknown network .resnet81"):
        resolve([Layer("test", {"method": "sre2l", "teachers": ["resnet81"]})])


def test_the_first_view_of_a_curriculum_is_the_whole_image():
    assert draw_boxes(1, 8, torch.Generator().manual_seed(0), smallest=1.0).tolist() == [[0, 0, 8, 8]]
