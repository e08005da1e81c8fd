"""Experts on a few random images, in float64."""

import torch

from condense.augment import DSA
from condense.data import Inputs, Preprocessing, Split
from condense.experts import ExpertPlan, train_expert
from condense.networks import Network, create
from condense.rng import generator, isolated

N, BATCH, SEED = 10, 4, 5
"""Each epoch has batches of 4, 4 and 2."""
CONVNET = "convnet:width=4,depth=2"
ON = {"channels": 1, "size": 8, "classes": 3}


def inputs_and_labels():
    images = torch.randint(256, (N, 1, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
    values = {"mean": torch.tensor([0.5]).double(), "std": torch.tensor([0.25]).double()}
    labels = torch.arange(N) % ON["classes"]
    return Inputs(Split(images, labels), Preprocessing("mean_std", values)), labels


def network(spec=CONVNET, micro_batch=None):
    return Network(spec, **ON, dtype=torch.float64, micro_batch=micro_batch)


def snapshots(index=0, *, spec=CONVNET, micro_batch=None, seed=SEED, data=None, **plan):
    """The trajectory of one expert, as an iterator."""
    inputs, labels = data or inputs_and_labels()
    plan = ExpertPlan(**{"epochs": 3, "lr": 0.1, "batch": BATCH, **plan})
    return train_expert(network(spec, micro_batch), inputs, labels, plan, seed=seed, index=index)


def same_module(index=0, spec=CONVNET):
    """An ordinary module that starts where the expert starts."""
    with isolated(SEED, "expert.init", index):
        return create(spec, **ON).double().train()


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def batches(index, epoch, dsa="none"):
    """What the expert trains on in an epoch, found again from the addresses of its draws."""
    inputs, labels = inputs_and_labels()
    draws, augmentation = generator(SEED, f"expert.{index}.epoch", epoch), DSA(dsa)
    order = torch.randperm(N, generator=draws)
    for first in range(0, N, BATCH):
        rows = order[first : first + BATCH]
        yield augmentation.apply(inputs[rows], augmentation.sample(draws, len(rows))), labels[rows]


class Watched:
    """Inputs that note which rows are asked for."""

    def __init__(self, inputs):
        self.inputs, self.taken = inputs, []

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, rows):
        self.taken.append(rows.tolist())
        return self.inputs[rows]
