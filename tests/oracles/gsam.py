"""GSAM on a module with named parameters, one tensor after the other (Zhuang et al., 2022, arXiv 2203.08065)."""

import torch
from torch.nn import functional as F


def gradients(module, x, y):
    """{name: gradient} of the mean cross-entropy."""
    loss = F.cross_entropy(module(x), y)
    names = [name for name, _ in module.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(module.parameters())), strict=True))


def dot(a, b):
    """Inner product over all parameters together."""
    total = 0.0
    for name in a:
        total += float((a[name] * b[name]).sum())
    return total


def step(module, x, y, *, lr, rho, alpha, adaptive):
    """One update of the module's parameters, in place."""
    parameters = dict(module.named_parameters())
    g = gradients(module, x, y)

    ascent, squares = {}, 0.0
    for name, p in parameters.items():
        weight = p.detach().abs() if adaptive else torch.ones_like(p)
        squares += float((weight * g[name]).square().sum())
        ascent[name] = weight**2 * g[name]
    before = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for name, p in parameters.items():
            p.add_(rho * ascent[name] / (squares**0.5 + 1e-12))

    perturbed = gradients(module, x, y)
    cosine = dot(g, perturbed) / (dot(g, g) ** 0.5 * dot(perturbed, perturbed) ** 0.5)
    with torch.no_grad():
        for name, p in parameters.items():
            along = cosine * dot(g, g) ** 0.5 * perturbed[name] / dot(perturbed, perturbed) ** 0.5
            vertical = g[name] - along
            p.copy_(before[name] - lr * (perturbed[name] - alpha * vertical))
