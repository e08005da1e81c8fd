"""Teachers of small images, in float64: random weights, and running statistics of random images."""

import torch
from problems import CLASSES

from condense.networks import canonical, create
from condense.rng import generator, isolated
from condense.teachers import Teacher

SIZE = 8
ON = {"channels": 1, "size": SIZE, "classes": CLASSES}
CONVNET = "convnet:width=4,depth=2,norm=batch"


def images(n=6, size=SIZE, dtype=torch.float64):
    return torch.randn(n, 1, size, size, generator=generator(0, "images"), dtype=dtype)


def teacher(spec=CONVNET, size=SIZE, dtype=torch.float64):
    on = ON | {"size": size}
    with isolated(0, "teacher"):
        module = create(spec, **on).to(dtype).train()
        for _ in range(3):
            module(2 * torch.randn(8, 1, size, size, dtype=dtype) + 0.5)
    return Teacher(canonical(spec, **on), module, None)
