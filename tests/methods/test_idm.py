"""IDM against a loop over classes that is written from the published equations, and its queue of networks."""

import pytest
import torch
from problems import make_condenser, make_problem, relative_error
from torch.nn import functional as F

from condense.errors import NumericsError
from condense.synthetic import sample_per_class


def expanded(stored):
    """The four quadrants of each image, row by row, enlarged."""
    h, w = stored.shape[2] // 2, stored.shape[3] // 2
    out = []
    for image in stored:
        for top in (0, h):
            for left in (0, w):
                quadrant = image[None, :, top : top + h, left : left + w]
                out.append(F.interpolate(quadrant, scale_factor=2, mode="bilinear", align_corners=False))
    return torch.cat(out)


def slow_loss(problem, images, theta, accuracy, ce_weight, iteration, batch_real):
    """The loss of all classes, one class after another, on the draws of the iteration's address."""
    draws = problem.rng("matching", iteration)
    rows = sample_per_class(problem.members, batch_real, draws).view(3, -1)
    records = [problem.augmentation.sample(draws, 1, shared=True) for _ in range(3)]
    total = 0
    for c in range(3):
        x_r = problem.augmentation.apply(problem.inputs[rows[c]], records[c])
        x_s = problem.augmentation.apply(expanded(images[2 * c : 2 * c + 2]), records[c])
        means = [problem.network.embed(theta, x).mean(0) for x in (x_r, x_s)]
        total = total + ((means[0].detach() - means[1]) ** 2).sum()
        for image in x_s:
            log_p = F.log_softmax(problem.network.logits(theta, image[None])[0], 0)
            total = total - ce_weight * accuracy * log_p[c] / len(x_s)
    return total


@pytest.mark.parametrize("network", ["convnet:width=4,depth=2", "convnet:width=4,depth=2,norm=none"])
@pytest.mark.parametrize("class_batch", [None, 2])
def test_one_iteration_against_the_published_loss(network, class_batch, tmp_path):
    condenser = make_condenser("idm", factor=2, ce_weight=0.3, class_batch=class_batch)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64, network=network)
    state = condenser.init(problem)
    state["nets.accuracy"] += torch.tensor([10.0, 20.0, 35.0, 60.0])
    place = condenser.matched(state, problem, 9)
    assert place == 2
    theta, accuracy = state["nets"][place].clone(), float(state["nets.accuracy"][place])
    images = state["images"].clone().requires_grad_()
    loss = slow_loss(problem, images, theta, accuracy, 0.3, 9, condenser.config.batch_real)
    (gradient,) = torch.autograd.grad(loss, images)

    metrics = condenser.step(state, problem, 9)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    moved = (images.detach() - state["images"]) / condenser.config.lr_img
    assert relative_error(moved, gradient) < 1e-9


def test_a_network_that_was_not_trained_gives_no_cross_entropy(tmp_path):
    losses = []
    for ce_weight, accuracy in ((0.0, 0.0), (5.0, 0.0), (5.0, 1.0)):
        condenser = make_condenser("idm", ce_weight=ce_weight)
        problem = make_problem(condenser, tmp_path)
        state = condenser.init(problem)
        state["nets.accuracy"] += accuracy
        losses.append(condenser.step(state, problem, 0)["loss"])
    assert losses[0] == losses[1] < losses[2]


def test_the_queue_grows_by_the_rule_and_drops_the_oldest(tmp_path, monkeypatch):
    """Three networks at the start; one more before each third iteration, the first included; six at the most."""
    condenser = make_condenser("idm", net_every=3, queue_size=6)
    problem = make_problem(condenser, tmp_path)
    monkeypatch.setattr(condenser, "train", lambda *_: None)
    state = condenser.init(problem)
    queue, created = [0, 1, 2], 3
    for iteration in range(14):
        if iteration % 3 == 0:
            if len(queue) == 6:
                queue.pop(0)
            queue.append(created)
            created += 1
        expected = torch.stack([problem.network.init(problem.seed, "network", number) for number in queue])
        assert torch.equal(state["nets"], expected), iteration
        condenser.step(state, problem, iteration)
    assert queue == [2, 3, 4, 5, 6, 7]


def test_a_network_takes_its_velocity_and_accuracy_along_in_the_queue(tmp_path, monkeypatch):
    condenser = make_condenser("idm", net_every=1, queue_size=4)
    problem = make_problem(condenser, tmp_path)
    monkeypatch.setattr(condenser, "train", lambda *_: None)
    state = condenser.init(problem)
    before = {"nets.velocity": torch.randn_like(state["nets"]), "nets.accuracy": torch.rand(4)}
    state |= {name: tensor.clone() for name, tensor in before.items()}
    condenser.step(state, problem, 0)
    for name, tensor in before.items():
        assert torch.equal(state[name][:3], tensor[1:]) and not state[name][3].any()


@pytest.mark.parametrize("train_nets", [1, 3])
def test_an_iteration_trains_so_many_networks_and_no_other(train_nets, tmp_path):
    condenser = make_condenser("idm", train_nets=train_nets, net_every=100)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    trained = set()
    for iteration in range(8):
        before = {name: tensor.clone() for name, tensor in state.items()}
        condenser.step(state, problem, iteration)
        changed = [(state[name] != before[name]).any(1).nonzero().flatten() for name in ("nets", "nets.velocity")]
        assert len(changed[0]) == train_nets and torch.equal(*changed)
        others = [place for place in range(4) if place not in changed[0].tolist()]
        assert torch.equal(state["nets.accuracy"][others], before["nets.accuracy"][others])
        trained |= set(changed[0].tolist())
    assert trained == {0, 1, 2, 3}


def test_training_is_sgd_with_a_velocity_that_stays_and_an_accuracy_that_does_not(tmp_path):
    """Two visits of one network, against torch's SGD; the accuracy is of the last visit, before each step."""
    condenser = make_condenser("idm", net_steps=3, net_batch=20, lr_net=0.05)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    state = condenser.init(problem)
    theta = state["nets"][2].clone().requires_grad_()
    optimiser = torch.optim.SGD([theta], lr=0.05, momentum=0.9, weight_decay=5e-4)
    for visit in (0, 1):
        condenser.train(state, problem, visit, 2, problem.rng("training", visit))
        order = sample_per_class([torch.arange(120)], 60, problem.rng("training", visit))
        correct = []
        for step in range(3):
            rows = order[20 * step : 20 * step + 20]
            logits, y = problem.network.logits(theta, problem.inputs[rows]), problem.data.train.labels[rows]
            correct += [int(row.argmax()) == int(label) for row, label in zip(logits, y, strict=True)]
            optimiser.zero_grad()
            F.nll_loss(F.log_softmax(logits, 1), y).backward()
            optimiser.step()
        assert relative_error(state["nets"][2], theta.detach()) < 1e-12
        assert float(state["nets.accuracy"][2]) == pytest.approx(100 * sum(correct) / 60)
    assert float(state["nets.accuracy"][2]) > 40


def test_each_network_of_the_queue_is_matched_on_as_often(tmp_path):
    condenser = make_condenser("idm")
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    places = torch.tensor([condenser.matched(state, problem, iteration) for iteration in range(400)])
    assert places.bincount(minlength=4).tolist() == pytest.approx([100] * 4, abs=35)
    theta = condenser.network(state, problem, 7)
    assert torch.equal(theta, state["nets"][places[7]])


def test_a_class_moves_by_its_own_momentum_alone(tmp_path, monkeypatch):
    """Class 1 has a gradient in iteration 0 only: it comes to rest after 2 lr_img times that, whatever others do."""
    condenser = make_condenser("idm", factor=2, momentum_img=0.5)
    problem = make_problem(condenser, tmp_path, dtype=torch.float64)
    losses = condenser.losses

    def masked(state, problem, iteration, theta, batch):
        return losses(state, problem, iteration, theta, batch) * torch.tensor([1, iteration == 0, 1])

    monkeypatch.setattr(condenser, "losses", masked)
    state = condenser.init(problem)
    start = state["images"][2:4].clone()
    condenser.step(state, problem, 0)
    first = state["images"][2:4] - start  # lr_img times the gradient
    for iteration in range(1, 12):
        condenser.step(state, problem, iteration)
        moved = state["images"][2:4] - start
        assert relative_error(moved, (2 - 0.5**iteration) * first) < 1e-12
    assert float((state["images"] - condenser.init(problem)["images"])[:2].norm()) > 0


def test_a_network_that_diverges_stops_the_run_and_does_not_enter_the_queue(tmp_path):
    condenser = make_condenser("idm", lr_net=1e30)
    problem = make_problem(condenser, tmp_path)
    state = condenser.init(problem)
    with pytest.raises(NumericsError, match="lr_net"):
        condenser.step(state, problem, 0)
    assert state["nets"].isfinite().all()
