"""Gradient matching with plain loops and a full graph through the gradients (arXiv 2006.05929, algorithm 1)."""

import math

import torch
from torch.nn import functional as F


def rows(gradient):
    """The vectors that DC compares in the gradient of one parameter, as nested lists."""
    values = gradient.tolist()
    match gradient.ndim:
        case 4:  # a convolution: all inputs and places of one output
            return [[v for channel in output for line in channel for v in line] for output in values]
        case 3:  # scale or shift of a layer norm: all places of one channel
            return [[v for line in channel for v in line] for channel in values]
        case 2:
            return values
        case 1:  # biases, and the scale and shift of the other norms
            return []


def row_distance(real, synthetic):
    """Number by number, for two lists of gradients without NaN."""
    total = 0.0
    for r, s in zip(real, synthetic, strict=True):
        for a, b in zip(rows(r), rows(s), strict=True):
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
            total += 1 - dot / (lengths + 1e-6)
    return total


def differentiable_row_distance(real, synthetic):
    """The same for gradients that autograd goes on from, row by row."""
    total = 0.0
    for r, s in zip(real, synthetic, strict=True):
        for a, b in zip(r, s, strict=True):
            if r.ndim > 1:
                total = total + 1 - (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt() + 1e-6)
    return total


def flat_cosine_distance(real, synthetic):
    a, b = (torch.cat([g.reshape(-1) for g in gradients]) for gradients in (real, synthetic))
    return 1 - (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt() + 1e-6)


def flat_squared_distance(real, synthetic):
    return sum(((r - s) ** 2).sum() for r, s in zip(real, synthetic, strict=True))


DISTANCES = {"rows": differentiable_row_distance, "cosine": flat_cosine_distance, "mse": flat_squared_distance}


def parameter_gradients(network, theta, x, label, create_graph):
    """Of the mean cross-entropy of images of one class, tensor by tensor."""
    parts = {name: p.detach().clone().requires_grad_() for name, p in network.split(theta).items()}
    logits = network.logits(torch.cat([p.flatten() for p in parts.values()]), x)
    loss = -F.log_softmax(logits, 1)[:, label].mean()
    return torch.autograd.grad(loss, list(parts.values()), create_graph=create_graph)


def matching(network, theta, real, synthetic, distance="rows"):
    """Sum over classes of the distance; real and synthetic are one tensor of images for each class."""
    total = 0.0
    for label, (x_real, x_synthetic) in enumerate(zip(real, synthetic, strict=True)):
        target = [g.detach() for g in parameter_gradients(network, theta, x_real, label, False)]
        total = total + DISTANCES[distance](target, parameter_gradients(network, theta, x_synthetic, label, True))
    return total


def train(network, theta, batches, lr):
    """theta after plain SGD on batches (x, y), with torch's optimiser on separate tensors."""
    parts = [p.detach().clone().requires_grad_() for p in network.split(theta).values()]
    optimiser = torch.optim.SGD(parts, lr=lr)
    for x, y in batches:
        optimiser.zero_grad()
        logits = network.logits(torch.cat([p.flatten() for p in parts]), x)
        F.nll_loss(F.log_softmax(logits, 1), y).backward()
        optimiser.step()
    return torch.cat([p.detach().flatten() for p in parts])
