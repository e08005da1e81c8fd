"""ATOM, as we reconstruct it, against a loop over classes, layers, images and channels, and against DataDAM."""

import pytest
import torch
from problems import make_condenser, make_problem, relative_error

from condense.errors import ConfigError

NETWORK = "convnet:width=4,depth=3"


def batch_of(condenser, problem):
    (batch,) = condenser.batches(condenser.init(problem)["images"], problem, 0)
    return condenser.network({}, problem, 0), batch


def slow_loss(network, theta, real, synthetic, config):
    """The loss of one class."""

    def describe(images):
        """Mean spatial and channel-wise attention of each layer, and the mean embedding, one image at a time."""
        sums = None
        for image in images:
            maps, embedding = network.features(theta, image[None])
            found = []
            for layer in maps[:-1]:
                spatial = sum(channel.abs() ** config.attention_power for channel in layer[0]).flatten()
                by_channel = torch.stack([(channel.abs() ** config.channel_power).sum() for channel in layer[0]])
                found += [a / (a * a).sum().sqrt() for a in (spatial, by_channel)]
            found.append(embedding[0])
            sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
        return [total / len(images) for total in sums]

    *attention, embedding = [((a - b) ** 2).sum() for a, b in zip(describe(real), describe(synthetic), strict=True)]
    return config.loss_scale * (sum(attention) + config.task_balance * embedding)


@pytest.mark.parametrize(("p", "q", "task_balance"), [(4.0, 4.0, 0.01), (4.0, 1.0, 0.01), (1.0, 3.0, 0.5)])
def test_losses_and_gradient_equal_the_loop(tmp_path, p, q, task_balance):
    condenser = make_condenser("atom", attention_power=p, channel_power=q, task_balance=task_balance, batch_real=5)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, ipc=3, network=NETWORK)
    theta, batch = batch_of(condenser, problem)
    fast = condenser.class_losses(problem, theta, batch)
    slow = torch.stack(
        [
            slow_loss(problem.network, theta, real, synthetic, condenser.config)
            for real, synthetic in zip(batch.real, batch.synthetic, strict=True)
        ]
    )
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(losses.sum(), batch.stored, retain_graph=True)[0] for losses in (fast, slow)]
    assert relative_error(*gradients) < 1e-9


def test_is_datadam_with_a_second_attention(tmp_path):
    """With all else equal it is larger by the channel-wise terms: between 0 and 2 for each class and layer."""
    losses = {}
    for name in ("datadam", "atom"):
        condenser = make_condenser(name, loss_scale=1.0, batch_real=8)
        problem = make_problem(condenser, tmp_path, network=NETWORK)
        losses[name] = condenser.class_losses(problem, *batch_of(condenser, problem))
    more = losses["atom"] - losses["datadam"]
    assert (more > 0).all() and (more <= 2 * 2).all()


def test_batch_norm_runs_and_its_loss_falls(tmp_path):
    condenser = make_condenser("atom", lr_img=1.0)
    problem = make_problem(condenser, tmp_path, network="convnet:width=4,depth=2,norm=batch")
    state = condenser.init(problem)
    losses = [condenser.step(state, problem, i)["loss"] for i in range(30)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_a_network_without_maps_is_refused(tmp_path):
    condenser = make_condenser("atom")
    with pytest.raises(ConfigError, match=r"'mlp' has 0 feature maps, but atom compares"):
        condenser.init(make_problem(condenser, tmp_path, network="mlp"))
