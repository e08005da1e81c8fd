"""Distances between the gradients that real and synthetic images give a network.

a and b hold one tensor for each parameter, in the same order. The result is 0-dimensional.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

EPSILON = 1e-6


def row_distance(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """Sum over parameters and rows of 1 - <a_o, b_o> / (|a_o| |b_o| + 1e-6).

    A row is all that feeds one output: [O, I, kh, kw] has O rows of I kh kw numbers, [O, I] has O rows; [C, h, w] (the
    scale of a layer norm) has C. Biases and other vectors are left out. DC: Zhao, Mopuri and Bilen, ICLR 2021, arXiv
    2006.05929, equation 10.
    """
    total = torch.zeros(())
    for p, q in zip(a, b, strict=True):
        if p.ndim > 1:
            p, q = p.flatten(1), q.flatten(1)
            cosine = (p * q).sum(1) / (_norm(p) * _norm(q) + EPSILON)
            total = total.to(p) + (1 - cosine).sum()
    return total


def cosine_distance(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """1 - <a, b> / (|a| |b| + 1e-6) with all parameters joined to one vector: "cos" of DC's code."""
    p, q = _joined(a), _joined(b)
    cosine: Tensor = (p @ q) / (p.norm() * q.norm() + EPSILON)
    return 1 - cosine


def squared_distance(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """|a - b|^2 over all parameters: "mse" of DC's code."""
    return (_joined(a) - _joined(b)).square().sum()


def absolute_distance(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """Sum of |a - b| over all parameters, of every number: "l1" of IDC's code."""
    return (_joined(a) - _joined(b)).abs().sum()


def convolutions(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those that belong to the weights [O, I, kh, kw] of convolutions: all that IDC compares.

    Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv 2205.14959, and
    its code.
    """
    return [tensor for tensor in tensors if tensor.ndim == 4]


def _norm(rows: Tensor) -> Tensor:
    """The length of each row, with the derivative 0 where a row is 0."""
    squares = rows.square().sum(1)
    zero = squares == 0
    return torch.where(zero, 0, torch.where(zero, 1, squares).sqrt())


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
