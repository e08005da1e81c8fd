"""DataDAM against a loop over classes, layers and images that is written from the paper's equations."""

import pytest
import torch
from problems import make_condenser, make_problem, relative_error
from torch.nn import functional as F

from condense.errors import ConfigError
from condense.methods import METHODS

DEEP = "convnet:width=4,depth=3"  # maps of 8, 4 and 2 px, of which the first two count


def forward(weights, image, norm):
    """The outputs of the ReLUs of a ConvNet of depth 3, and the embedding. image [n, 1, 8, 8]."""
    maps = []
    for conv in (name for name in weights if name.startswith("features") and weights[name].ndim == 4):
        x = F.conv2d(image, weights[conv], weights[conv.replace("weight", "bias")], padding=1)
        layer = int(conv.split(".")[1]) + 1
        dims = (2, 3) if norm == "instance" else (0, 2, 3)
        mean, var = x.mean(dims, keepdim=True), x.var(dims, keepdim=True, unbiased=False)
        x = (x - mean) / (var + 1e-5).sqrt()
        scale, shift = weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"]
        x = (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
        maps.append(x)
        n, c, h, w = x.shape
        image = x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
    return maps, image.flatten(1)


def slow_loss(weights, real, synthetic, *, p, task_balance, scale, norm="instance"):
    """The loss of one class."""
    (real_maps, real_embedding), (maps, embedding) = forward(weights, real, norm), forward(weights, synthetic, norm)
    total = task_balance * ((real_embedding.mean(0) - embedding.mean(0)) ** 2).sum()
    for layer in range(len(maps) - 1):
        means = []
        for side in (real_maps[layer], maps[layer]):
            mean = 0
            for image in side:
                attention = sum(channel.abs() ** p for channel in image).flatten()
                mean = mean + attention / (attention**2).sum().sqrt() / len(side)
            means.append(mean)
        total = total + ((means[0] - means[1]) ** 2).sum()
    return scale * total


def of_both(condenser, problem, slow):
    """The losses of all classes and their gradient by the stored images, by the method and by `slow`."""
    theta = condenser.network({}, problem, 0)
    state = condenser.init(problem)
    results = []
    for fast in (True, False):
        (batch,) = condenser.batches(state["images"], problem, 0)
        if fast:
            losses = condenser.class_losses(problem, theta, batch)
        else:
            weights = problem.network.split(theta)
            pairs = zip(batch.real, batch.synthetic, strict=True)
            losses = torch.stack([slow(weights, real, synthetic) for real, synthetic in pairs])
        results.append((losses.detach(), *torch.autograd.grad(losses.sum(), batch.stored)))
    return zip(*results, strict=True)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize(
    ("p", "task_balance", "loss_scale"), [(4.0, 0.01, 100.0), (1.0, 0.01, 100.0), (2.0, 0.5, 1.0), (4.0, 0.0, 3.0)]
)
def test_losses_and_gradient_equal_the_loop(tmp_path, norm, p, task_balance, loss_scale):
    condenser = make_condenser(
        "datadam", attention_power=p, task_balance=task_balance, loss_scale=loss_scale, batch_real=5
    )
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, ipc=3, network=f"{DEEP},norm={norm}")

    def slow(weights, real, synthetic):
        return slow_loss(weights, real, synthetic, p=p, task_balance=task_balance, scale=loss_scale, norm=norm)

    losses, gradients = of_both(condenser, problem, slow)
    assert losses[0].shape == (3,)
    torch.testing.assert_close(*losses, rtol=1e-10, atol=0)
    assert relative_error(*gradients) < 1e-9


def test_the_defaults_are_the_papers():
    config = METHODS["datadam"].Config()
    assert (config.attention_power, config.task_balance, config.iterations) == (4, 0.01, 8000)
    assert (config.lr_img, config.momentum_img, config.batch_real, config.init) == (1, 0.5, 64, "real")


def test_the_last_map_does_not_count(tmp_path):
    """Without the embedding nothing depends on the last convolution."""
    condenser = make_condenser("datadam", task_balance=0.0)
    problem = make_problem(condenser, tmp_path, network=DEEP)
    theta = condenser.network({}, problem, 0)
    (batch,) = condenser.batches(condenser.init(problem)["images"], problem, 0)
    before = condenser.class_losses(problem, theta, batch)
    changes = {}
    for name in ("features.0.weight", "features.4.weight", "features.8.weight"):
        other = theta.clone()
        problem.network.split(other)[name].mul_(torch.linspace(-1, 1, 3))
        changes[name] = not torch.equal(condenser.class_losses(problem, other, batch), before)
    assert changes == {"features.0.weight": True, "features.4.weight": True, "features.8.weight": False}


def test_without_the_embedding_each_layer_adds_at_most_two(tmp_path):
    condenser = make_condenser("datadam", task_balance=0.0, loss_scale=1.0, init="noise")
    problem = make_problem(condenser, tmp_path, network=DEEP)
    state = condenser.init(problem)
    state["images"] *= 1e3
    (batch,) = condenser.batches(state["images"], problem, 0)
    losses = condenser.class_losses(problem, condenser.network(state, problem, 0), batch)
    assert (losses > 0).all() and (losses <= 2 * 2).all()


def test_equal_images_have_no_loss(tmp_path):
    condenser = make_condenser("datadam", batch_real=4)
    problem = make_problem(condenser, tmp_path, ipc=4, dsa="none", dtype=torch.float64, network=DEEP)
    theta, state = condenser.network({}, problem, 0), condenser.init(problem)
    (batch,) = condenser.batches(state["images"], problem, 0)
    (same,) = condenser.batches(batch.real.flatten(0, 1), problem, 0)
    assert condenser.class_losses(problem, theta, same).abs().max() < 1e-20
    assert condenser.class_losses(problem, theta, batch).min() > 1e-3


def test_the_variant_of_the_published_code_runs_and_is_another(tmp_path):
    """Exponent 1 and batch norm; each of the two alone is a change, too."""
    first = {}
    for p in (4.0, 1.0):
        for norm in ("instance", "batch"):
            condenser = make_condenser("datadam", attention_power=p, lr_img=1.0)
            problem = make_problem(condenser, tmp_path, network=f"convnet:width=4,depth=2,norm={norm}")
            state = condenser.init(problem)
            losses = [condenser.step(state, problem, i)["loss"] for i in range(30)]
            assert sum(losses[-10:]) < 0.9 * sum(losses[:10]), (p, norm)
            first[p, norm] = losses[0]
    assert len(set(first.values())) == 4


@pytest.mark.parametrize("network", ["mlp", "vit:dim=12,depth=1", "convnet:width=4,depth=1"])
def test_a_network_without_two_maps_is_refused_before_any_work(tmp_path, network):
    condenser = make_condenser("datadam")
    problem = make_problem(condenser, tmp_path, network=network)
    with pytest.raises(ConfigError, match=rf"{network[:3]}.*feature maps, but datadam.*convnet.*lenet.*resnet18"):
        condenser.init(problem)


@pytest.mark.parametrize("network", ["lenet", "alexnet", "vgg11:width=4", "resnet18:width=4,norm=batch"])
def test_other_networks(tmp_path, network):
    condenser = make_condenser("datadam", batch_real=4)
    problem = make_problem(condenser, tmp_path, network=network, ipc=1)
    state = condenser.init(problem)
    before = state["images"].clone()
    assert condenser.step(state, problem, 0)["loss"] > 0
    assert (state["images"] != before).any((1, 2, 3)).all()
