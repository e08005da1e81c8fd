import numpy as np
import torch
from problems import make_condenser, make_problem

from condense.methods.base import TeacherConfig
from condense.methods.herding import Herding


def choose(features, ipc):
    return Herding(TeacherConfig()).choose(torch.from_numpy(features), ipc, 0).tolist()


def by_definition(features, ipc):
    """argmin |k mu - sum_{chosen} phi_j - phi_i| over rows not chosen, recomputed from scratch for each k."""
    mean, chosen = features.mean(0), []
    for k in range(1, ipc + 1):
        target = k * mean - features[chosen].sum(0)
        distances = np.linalg.norm(target - features, axis=1)
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return chosen


def test_against_the_definition():
    features = np.random.default_rng(0).normal(size=(50, 7))
    assert choose(features, 20) == by_definition(features, 20)


def test_the_first_is_nearest_to_the_mean_and_all_is_everything():
    features = np.random.default_rng(1).normal(size=(12, 3))
    assert choose(features, 1) == [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
    assert sorted(choose(features, 12)) == list(range(12))


def test_the_images_are_real_and_of_their_class(tmp_path):
    condenser = make_condenser("herding", teacher_epochs=1)
    problem = make_problem(condenser, tmp_path, ipc=5)
    rows = condenser.pick(problem)
    assert problem.data.train.labels[rows].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert len(set(rows.tolist())) == 15
