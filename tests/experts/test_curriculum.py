"""The data curriculum, its scores, and experts that follow it."""

import json
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from pydantic import ValidationError
from small_experts import BATCH, SEED, Watched, inputs_and_labels, network, snapshots

from condense.data import Inputs, Preprocessing, Split
from condense.experts import Curriculum, ExpertPlan, rank_by_difficulty, train_expert
from condense.experts.difficulty import el2n

PUBLISHED = Curriculum()


def numbers(epoch, m, curriculum=PUBLISHED):
    """Which of m images, numbered from easy to hard, an epoch trains on."""
    return curriculum.rows(epoch, [torch.arange(m)]).tolist()


@pytest.mark.parametrize("m", [5000, 500])
def test_the_published_epochs(m):
    """As the released code has them; it crashes in epoch 41 for classes of 500, since it counts in 5000s."""
    assert numbers(0, m) == list(range(int(0.75 * m)))
    assert numbers(10, m) == list(range(int(0.875 * m)))
    for epoch in (20, 21, 40):
        assert numbers(epoch, m) == list(range(m))
    for epoch in (41, 60):
        assert numbers(epoch, m) == list(range(m // 10, m))
    for epoch in (61, 99):
        assert numbers(epoch, m) == list(range(m // 5, m))


def test_it_grows_by_the_epoch_and_never_leaves_a_class_empty():
    sizes = [len(numbers(epoch, 100)) for epoch in range(21)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 21
    hardest = Curriculum(init_ratio=0.01, rm_easy_ratio_first=0.99, rm_easy_ratio_second=0.999)
    assert all(numbers(epoch, m, hardest) for epoch in (0, 1, 41, 99) for m in (1, 2, 3))


def test_each_class_has_its_part():
    ranking = [torch.tensor([3, 1, 5, 7]), torch.tensor([2, 0])]
    assert PUBLISHED.rows(0, ranking).tolist() == [3, 1, 5, 2]
    assert Curriculum(add_end_epoch=0).rows(0, ranking).tolist() == [3, 1, 5, 7, 2, 0]


def test_a_curriculum_with_all_images_in_every_epoch_knows_it():
    everything = {"init_ratio": 1.0, "rm_easy_ratio_first": 0.0, "rm_easy_ratio_second": 0.0}
    assert Curriculum(**everything).drops_nothing
    for key, value in {"init_ratio": 0.9, "rm_easy_ratio_first": 0.1, "rm_easy_ratio_second": 0.1}.items():
        assert not Curriculum(**everything | {key: value}).drops_nothing


def test_el2n_image_by_image():
    net, (inputs, labels) = network(), inputs_and_labels()
    thetas = [net.init(SEED, "score", k) for k in range(3)]
    scores = el2n(net, inputs, labels, thetas)
    for row, label in enumerate(labels.tolist()):
        errors = []
        for theta in thetas:
            p = net.logits(theta, inputs[torch.tensor([row])])[0].softmax(0)
            errors.append(sum((float(p[c]) - (c == label)) ** 2 for c in range(3)) ** 0.5)
        assert float(scores[row]) == pytest.approx(sum(errors) / 3, rel=1e-12)


def plan(**values):
    curriculum = Curriculum(init_ratio=0.5, add_end_epoch=2, score_networks=2, score_epochs=2)
    return ExpertPlan(**{"epochs": 3, "lr": 0.1, "batch": BATCH, "curriculum": curriculum} | values)


def test_the_ranking_has_every_image_once_in_its_class_by_its_score():
    net, (inputs, labels) = network(), inputs_and_labels()
    ranking = rank_by_difficulty(net, inputs, labels, plan(), seed=SEED)
    early = plan(curriculum=None, epochs=2)
    thetas = []
    for k in range(2):
        *_, theta = train_expert(net, inputs, labels, early, seed=SEED, index=k, stream="difficulty")
        thetas.append(theta)
    scores = el2n(net, inputs, labels, thetas)
    for c, rows in enumerate(ranking):
        assert sorted(rows.tolist()) == torch.nonzero(labels == c).flatten().tolist()
        assert scores[rows].tolist() == sorted(scores[rows].tolist())


def test_images_with_a_wrong_label_are_the_hardest():
    """Three kinds of image, each of one brightness; the last image of class 0 looks like class 2."""
    labels = torch.arange(3).repeat_interleave(6)
    images = (100 * labels).to(torch.uint8).view(18, 1, 1, 1) + torch.arange(64).view(1, 1, 8, 8) % 40
    images[5] = images[17]
    values = {"mean": torch.tensor([0.5]).double(), "std": torch.tensor([0.25]).double()}
    inputs = Inputs(Split(images.to(torch.uint8), labels), Preprocessing("mean_std", values))
    net = network("convnet:width=4,depth=2,norm=none")
    ranking = rank_by_difficulty(net, inputs, labels, plan(lr=0.05), seed=SEED)
    assert ranking[0][-1] == 5


def test_an_epoch_trains_on_its_part_alone():
    inputs, labels = inputs_and_labels()
    net, watched = network(), Watched(inputs)
    ranking = [torch.nonzero(labels == c).flatten().flip(0) for c in range(3)]
    list(train_expert(net, watched, labels, plan(), seed=SEED, index=0, ranking=ranking))
    taken = iter(watched.taken)
    for epoch in range(3):
        part = plan().curriculum.rows(epoch, ranking).tolist()
        seen = [row for _ in range(-(-len(part) // BATCH)) for row in next(taken)]
        assert sorted(seen) == sorted(part) and seen != part
    assert next(taken, None) is None


def test_a_curriculum_of_all_images_draws_the_same_order():
    """The order of an epoch is drawn over places in the curriculum, which are the row numbers where it has them all."""
    inputs, labels = inputs_and_labels()
    everything = plan(curriculum=Curriculum(add_end_epoch=0, rm_epoch_first=9))
    with_all = train_expert(
        network(), inputs, labels, everything, seed=SEED, index=0, ranking=[torch.arange(len(labels))]
    )
    assert all(torch.equal(a, b) for a, b in zip(with_all, snapshots(), strict=True))


def test_a_plan_with_a_curriculum_is_the_same_after_json():
    assert ExpertPlan(**json.loads(json.dumps(plan().model_dump()))) == plan()


def test_scoring_counts_as_passes_where_experts_are_to_be_trained():
    assert [plan().passes(experts) for experts in (0, 1, 5)] == [0, 7, 19]
    assert [plan(rho=0.1).passes(experts) for experts in (0, 5)] == [0, 38]


@pytest.mark.parametrize("add, first, second", list(product(range(4), repeat=3)))
def test_epochs_that_would_not_be_what_their_names_say_are_refused(add, first, second):
    """By the images that are then there, of 1000."""
    values = {"add_end_epoch": add, "rm_epoch_first": first, "rm_epoch_second": second}
    held = [len(numbers(epoch, 1000, Curriculum.model_construct(**values))) for epoch in range(add, 6)]
    meant = [1000] * (first + 1 - add) + [900] * (second - first) + [800] * (5 - second)
    with nullcontext() if held == meant else pytest.raises(ValidationError, match="must be at least"):
        Curriculum(**values)


@pytest.mark.parametrize("wrong", [{"init_ratio": 0.0}, {"rm_easy_ratio_first": 1.0}, {"score_networks": 0}])
def test_a_curriculum_refuses_what_cannot_be(wrong):
    with pytest.raises(ValidationError):
        Curriculum(**wrong)


def test_stopping_is_asked_for_after_every_snapshot():
    inputs, labels = inputs_and_labels()
    asked = []
    rank_by_difficulty(network(), inputs, labels, plan(), seed=SEED, poll=lambda: asked.append(1))
    assert len(asked) == 6
