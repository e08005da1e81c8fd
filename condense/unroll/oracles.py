"""The same derivative by two independent means, for tests and for readers: simple, exact, and hungry for memory."""

from typing import Any

import torch
from torch import Tensor, nn

from condense.loading import undisturbed
from condense.networks import InnerLoss
from condense.unroll.types import InnerRun, Unrolled


class _Leaves:
    """Fresh leaves for what is differentiated, so that no caller's tensor gains a graph."""

    def __init__(self, run: InnerRun) -> None:
        self.images = run.images.detach().requires_grad_()
        self.labels = run.labels.detach().requires_grad_(run.soft)
        self.lr = run.lr.detach().requires_grad_()

    def differentiate(self, loss: Tensor) -> Unrolled:
        inputs = [leaf for leaf in (self.images, self.lr, self.labels) if leaf.requires_grad]
        d_images, d_lr, *d_labels = torch.autograd.grad(loss, inputs)
        return Unrolled(loss.detach(), d_images, d_labels[0] if d_labels else None, d_lr)


def full_graph(run: InnerRun) -> Unrolled:
    """Keep the graph of all N steps and differentiate it: memory grows with N times the batch."""
    leaves = _Leaves(run)
    theta, velocity = run.start.detach().requires_grad_(), torch.zeros_like(run.start)
    passed = torch.zeros((), dtype=run.start.dtype, device=run.start.device)
    for i, step in enumerate(run.steps, 1):
        loss = run.inner_loss(theta, step.augment(leaves.images[step.index]), leaves.labels[step.index])
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        velocity = run.momentum * velocity + gradient
        theta = theta - leaves.lr * velocity
        if i in run.waypoints:
            passed = passed + run.waypoints[i](theta)
    return leaves.differentiate(run.outer_loss(theta) + passed)


class _FlatModel(nn.Module):
    """The inner loss as a module whose only parameter is theta, which is the form `higher` works on."""

    def __init__(self, inner_loss: InnerLoss, start: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(start.detach().clone())
        self.inner_loss = inner_loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner_loss(self.theta, x, y)


def with_higher(run: InnerRun) -> Unrolled:
    """The full graph as the package `higher` builds it (Grefenstette et al., 2019, arXiv 1910.01727)."""
    with undisturbed():
        import higher  # only here: the default engine does not need it, and it warns when it is first compiled

    leaves = _Leaves(run)
    model = _FlatModel(run.inner_loss, run.start)
    optimiser = torch.optim.SGD(model.parameters(), lr=float(run.lr.detach()), momentum=run.momentum)
    override: dict[str, list[Any]] = {"lr": [leaves.lr]}
    passed = torch.zeros((), dtype=run.start.dtype, device=run.start.device)
    with higher.innerloop_ctx(model, optimiser, copy_initial_weights=True, override=override) as (patched, inner):
        for i, step in enumerate(run.steps, 1):
            loss = patched(step.augment(leaves.images[step.index]), leaves.labels[step.index])
            inner.step(loss)
            theta = next(iter(patched.parameters()))
            if i in run.waypoints:
                passed = passed + run.waypoints[i](theta)
        return leaves.differentiate(run.outer_loss(theta) + passed)
