"""A small vision transformer (arXiv 2010.11929): 6 layers of width 192 with 3 heads, the width of DeiT-Ti (2012.12877).

Papers on distillation use several sizes of ViT and often do not name them; this one is our choice.
"""

import math
from typing import Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from condense.errors import ConfigError
from condense.networks.options import Options


class ViTOptions(Options):
    """The patch side follows the image side if not given: ceil(side / 8), so 4 px at 32 px and at most 64 patches."""

    patch: PositiveInt | None = None
    dim: PositiveInt = 192
    depth: PositiveInt = 6
    heads: PositiveInt = 3

    def resolve(self, size: int) -> Self:
        if self.dim % self.heads:
            raise ConfigError(f"vit: dim must be a multiple of heads={self.heads}, not {self.dim}.")
        return self.model_copy(update={"patch": self.patch or math.ceil(size / 8)})


class Attention(nn.Module):
    """Multi-head self-attention over tokens [n, t, dim].

    Written out, since torch's fused kernels have neither a second derivative nor a forward one.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return mixed


class Layer(nn.Module):
    """Pre-norm transformer layer: attention, then two Linear with GELU between, 4 dim wide."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        updated: Tensor = tokens + self.mlp(tokens)
        return updated


class ViT(nn.Module):
    """Patches to tokens, a class token, learned positions, `depth` layers, and a Linear on the class token.

    Images [n, channels, size, size] to logits [n, classes]. An image that patches do not cover exactly is padded with
    zeros on the right and below. No dropout.
    """

    def __init__(self, options: ViTOptions, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        assert options.patch is not None
        side = math.ceil(size / options.patch)
        self.padding = side * options.patch - size
        self.patches = nn.Conv2d(channels, options.dim, options.patch, stride=options.patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, options.dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + side * side, options.dim))
        self.layers = nn.Sequential(*(Layer(options.dim, options.heads) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(options.dim)
        self.classifier = nn.Linear(options.dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(F.pad(x, (0, self.padding, 0, self.padding))).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.positions
        logits: Tensor = self.classifier(self.norm(self.layers(tokens)[:, 0]))
        return logits
