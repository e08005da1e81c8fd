"""SRe2L: images that look to a teacher as its training data did, and labels of their views.

Yin, Xing and Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective",
NeurIPS 2023, arXiv 2306.13092: `condense.methods.recover` with one teacher. With `view_easy` it is CDA (arXiv
2311.18838); with patches to start from, resized views and labels by the statistics of a batch it is the SRe2L++ of
CV-DD (Cui et al., arXiv 2501.07575).
"""

from typing import ClassVar

from condense.methods.base import MethodConfig, register
from condense.methods.recover import PixelsConfig, RecoverPixels


class SRe2LConfig(PixelsConfig):
    """Hyper-parameters of SRe2L."""


@register
class SRe2L(RecoverPixels[SRe2LConfig]):
    name: ClassVar[str] = "sre2l"
    summary: ClassVar[str] = "recover images from the statistics of a teacher's batch norm, and label their views"
    citation: ClassVar[str] = """@inproceedings{yin2023sre2l,
  title = {Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective},
  author = {Yin, Zeyuan and Xing, Eric and Shen, Zhiqiang},
  booktitle = {NeurIPS}, year = {2023}, eprint = {2306.13092}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = SRe2LConfig
