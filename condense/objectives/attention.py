"""What feature maps attend to: vectors of unit length, one for each image.

F [..., ch, h, w] are the maps of a layer, and p >= 1 the exponent. |F|^4 leaves the range of half precision from 16 on,
so the maps are widened to float32 first, and the vectors are float32 or wider. A map of zeros gives a vector of zeros.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def spatial_attention(maps: Tensor, p: float) -> Tensor:
    """Where a layer looks: a / max(|a|, 1e-12), a = sum over channels of |F|^p. [..., ch, h, w] -> [..., h w].

    DataDAM: Sajedi et al., "DataDAM: Efficient Dataset Distillation with Attention Matching", ICCV 2023, arXiv
    2310.00093, section 3.
    """
    return F.normalize(_powers(maps, p).sum(-3).flatten(-2), dim=-1)


def channel_attention(maps: Tensor, p: float) -> Tensor:
    """Which channels answer: a / max(|a|, 1e-12), a = sum over positions of |F|^p. [..., ch, h, w] -> [..., ch].

    Our reading of the channel-wise attention of ATOM: Khaki et al., "ATOM: Attention Mixer for Efficient Dataset
    Distillation", CVPR Workshops 2024, arXiv 2405.01373.
    """
    return F.normalize(_powers(maps, p).sum((-2, -1)), dim=-1)


def _powers(maps: Tensor, p: float) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32)).abs().pow(p)
