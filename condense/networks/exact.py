"""Normalisation whose derivatives are right in every mode of differentiation.

torch's batch_norm and layer_norm give a wrong second derivative, without a word, when a forward-mode derivative is
differentiated again: they take the saved mean and deviation for constants (pytorch/pytorch#196699, #196700). Its
group_norm does not, and both can be written with it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.errors import ConfigError


class BatchNorm(nn.Module):
    """Batch normalisation of x [n, c, ...] by the mean and variance over all but c of the batch at hand, always.

    Raises ConfigError for a single number of each channel, which has no variance.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == x.shape[1]:
            raise ConfigError(
                "batch norm cannot work on a single image whose maps have shrunk to one pixel. "
                "Raise ipc, or choose another network, such as one with norm=instance"
            )
        by_channel = x.transpose(0, 1)
        one_group_each = by_channel.flatten(1).unsqueeze(0)  # [1, c, n ...]
        y = F.group_norm(one_group_each, x.shape[1], self.weight, self.bias, self.eps)
        return y.reshape(by_channel.shape).transpose(0, 1)


class LayerNorm(nn.Module):
    """Layer normalisation of x [..., *shape] over its last dimensions, with a learned scale and shift per element."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.shape = norm.normalized_shape

    def forward(self, x: Tensor) -> Tensor:
        one_group = x.reshape(-1, 1, *self.shape)
        y = F.group_norm(one_group, 1, eps=self.eps).reshape(x.shape)
        return torch.addcmul(self.bias, y, self.weight)


class PlainNorm(nn.Module):
    """Any of the norms of x [n, c, ...], written out: all of it can be traced through derivatives in any memory format.

    y = (x - mean) / sqrt(variance + eps) weight + bias. Mean and variance are those of the norm it is made from: over
    groups of the channels of each image (group norm), over all images for each channel (batch norm), or over the last
    dimensions (layer norm).
    """

    def __init__(self, norm: nn.GroupNorm | BatchNorm | LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else 0
        self.last = len(norm.shape) if isinstance(norm, LayerNorm) else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.last:
            scale, shift = _to_normal(x, list(range(-self.last, 0)), self.eps)
            return (x * scale + shift) * self.weight + self.bias
        weight, bias = (p.view(-1, *(1 for _ in x.shape[2:])) for p in (self.weight, self.bias))
        over = list(range(2, x.ndim))
        if self.groups in (0, x.shape[1]):
            scale, shift = _to_normal(x, over if self.groups else [0, *over], self.eps)
        else:
            scale, shift = _to_normal(x.unflatten(1, (self.groups, -1)), [d + 1 for d in (1, *over)], self.eps)
            each = x.shape[1] // self.groups
            scale, shift = (t.flatten(1, 2).repeat_interleave(each, 1) for t in (scale, shift))
        return x * (scale * weight) + (shift * weight + bias)


def _to_normal(x: Tensor, over: list[int], eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift that give x mean 0 and variance 1 over these dimensions, which they keep."""
    near = x.detach()
    for d in over:
        near = near.narrow(d, 0, 1)
    part = 1 / math.prod(x.shape[d] for d in over)
    away = x - near  # of their mean and variance both sums are taken in one pass, without cancellation
    mean = away.sum(over, keepdim=True) * part
    variance = away.square().sum(over, keepdim=True) * part - mean.square()
    scale = torch.rsqrt(variance + eps)
    return scale, -(near + mean) * scale


class PlainPool(nn.Module):
    """The mean over windows of k x k positions side by side, in place of nn.AvgPool2d(k): its kernels are slow.

    Channels last, as the next convolution wants its input.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        high, wide = (length // self.k for length in x.shape[2:])
        whole = x[:, :, : high * self.k, : wide * self.k]
        windows = whole.unflatten(3, (wide, self.k)).unflatten(2, (high, self.k))
        mean: Tensor = windows.sum((3, 5)) * (1 / self.k**2)
        return mean.contiguous(memory_format=torch.channels_last)


def plain_pools(module: nn.Module) -> None:
    """Put a `PlainPool` in the place of each nn.AvgPool2d that one can stand for."""
    pools = [(path, part) for path, part in module.named_modules() if isinstance(part, nn.AvgPool2d)]
    for path, pool in pools:
        k, whole = pool.kernel_size, pool.padding == 0 and not pool.ceil_mode
        if whole and isinstance(k, int) and pool.stride == k:
            module.set_submodule(path, PlainPool(k))


def plain_norms(module: nn.Module) -> None:
    """Put a `PlainNorm` in the place of each norm of a module that is `stateless`."""
    for path, norm in list(module.named_modules()):
        if isinstance(norm, nn.GroupNorm | BatchNorm | LayerNorm):
            module.set_submodule(path, PlainNorm(norm))


def stateless(module: nn.Module) -> nn.Module:
    """The module, changed in place: no running statistics, no dropout, and the two norms above for torch's.

    Names, order and values of the parameters stay.
    """
    for path, old in list(module.named_modules()):
        if isinstance(old, nn.modules.batchnorm._BatchNorm):
            module.set_submodule(path, BatchNorm(old))
        elif isinstance(old, nn.LayerNorm):
            assert type(old) is nn.LayerNorm, f"{path}: the forward pass of a subclass is not known"
            module.set_submodule(path, LayerNorm(old))
    return module.eval()
