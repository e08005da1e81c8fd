import numpy as np
import torch

from condense.methods.base import TeacherConfig
from condense.methods.herding import Herding
from condense.methods.kcenter import KCenter


def choose(features, ipc):
    return KCenter(TeacherConfig()).choose(torch.from_numpy(features), ipc, 0).tolist()


def test_against_the_definition():
    features = np.random.default_rng(0).normal(size=(40, 5))
    chosen = [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
    for _ in range(9):
        distances = np.linalg.norm(features[:, None] - features[chosen][None], axis=2).min(1)
        chosen.append(int(distances.argmax()))
    assert choose(features, 10) == chosen


def test_one_image_is_herdings():
    features = np.random.default_rng(1).normal(size=(30, 4))
    assert choose(features, 1) == Herding(TeacherConfig()).choose(torch.from_numpy(features), 1, 0).tolist()


def test_equal_images_are_not_taken_twice():
    features = np.zeros((6, 3))
    assert sorted(choose(features, 6)) == list(range(6))
