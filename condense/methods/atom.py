"""ATOM: attention mixer for efficient dataset distillation.

Khaki, Sajedi, Wang, Liu, Lawryshyn and Plataniotis, CVPR Workshops 2024, arXiv 2405.01373. DataDAM that also matches
the channel-wise attention of each layer: which channels answer, wherever they do.

Stated by the authors (abstract, project page, supplement): new random networks; real images as the start; mini-batches
of each class; attention of the intermediate layers, spatial and channel-wise together; a distance of the last layer's
features besides; DSA; ZCA for CIFAR and none for Tiny ImageNet. They have published no code.

Our own reconstruction is the rest: with a_s = spatial attention, a_c = sum over positions of |F|^q, of unit length,

    L = s sum over classes of ( sum over l < last of | mean a_s,r - mean a_s,s |^2 + | mean a_c,r - mean a_c,s |^2
                                + lambda | mean f_r - mean f_s |^2 )

with equal weights, q = 4 and all else as in DataDAM. Numbers that come of it are not the paper's.
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from condense.methods.base import MethodConfig, register
from condense.methods.datadam import DataDAM, DataDAMConfig
from condense.objectives import channel_attention


class ATOMConfig(DataDAMConfig):
    """Hyper-parameters of ATOM: those of DataDAM, and q. Their values are DataDAM's."""

    channel_power: float = Field(4.0, ge=1, description="exponent of the channel-wise attention")


@register
class ATOM(DataDAM[ATOMConfig]):
    name: ClassVar[str] = "atom"
    summary: ClassVar[str] = "DataDAM that also matches which channels answer (our reconstruction of the loss)"
    citation: ClassVar[str] = """@inproceedings{khaki2024atom,
  title = {ATOM: Attention Mixer for Efficient Dataset Distillation},
  author = {Khaki, Samir and Sajedi, Ahmad and Wang, Kai and Liu, Lucy Z. and Lawryshyn, Yuri A.
            and Plataniotis, Konstantinos N.},
  booktitle = {CVPR Workshops}, year = {2024}, eprint = {2405.01373}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = ATOMConfig

    def attention(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return super().attention(maps) + [channel_attention(layer, self.config.channel_power) for layer in maps]
