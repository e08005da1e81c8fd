import numpy as np
import torch

from condense.methods.base import TeacherConfig
from condense.methods.kmeans import KMeans


def choose(features, ipc, seed=0):
    return KMeans(TeacherConfig()).choose(torch.from_numpy(features), ipc, seed).tolist()


def test_separated_clusters_give_the_image_nearest_to_each_centre():
    draws = np.random.default_rng(0)
    centres = 100 * np.eye(4)
    features = np.concatenate([centre + draws.normal(size=(25, 4)) for centre in centres])
    expected = set()
    for k in range(4):
        cluster = features[25 * k : 25 * (k + 1)]
        expected.add(25 * k + int(np.linalg.norm(cluster - cluster.mean(0), axis=1).argmin()))
    assert set(choose(features, 4)) == expected


def test_images_are_distinct_and_the_seed_decides():
    features = np.random.default_rng(1).normal(size=(60, 6))
    chosen = choose(features, 30)
    assert len(set(chosen)) == 30
    assert chosen == choose(features, 30)
    assert chosen != choose(features, 30, seed=1)


def test_one_image_is_the_nearest_to_the_mean():
    features = np.random.default_rng(2).normal(size=(50, 3))
    assert choose(features, 1) == [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
