"""The data curriculum of PAD's experts: easy images first, then all, then without the easiest.

Li et al., "Prioritize Alignment in Dataset Distillation", 2024, arXiv 2408.03360; epochs and parts are those of the
released code.
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Curriculum(BaseModel):
    """What part of each class an epoch e = 0, 1, ... trains on. Of m images, sorted from easy to hard, that is

        e <= add_end_epoch       the first floor(p m), p = init_ratio + (1 - init_ratio) e / add_end_epoch
        e <= rm_epoch_first      all
        e <= rm_epoch_second     all but the first floor(rm_easy_ratio_first m)
        later                    all but the first floor(rm_easy_ratio_second m)

    and never fewer than one. How hard they are is scored by `score_networks` networks after `score_epochs` epochs
    (`rank_by_difficulty`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    init_ratio: float = Field(0.75, gt=0, le=1)
    add_end_epoch: int = Field(20, ge=0)
    rm_epoch_first: int = Field(40, ge=0)
    rm_epoch_second: int = Field(60, ge=0)
    rm_easy_ratio_first: float = Field(0.1, ge=0, lt=1)
    rm_easy_ratio_second: float = Field(0.2, ge=0, lt=1)
    score_networks: int = Field(10, ge=1)
    score_epochs: int = Field(10, ge=1)

    @property
    def drops_nothing(self) -> bool:
        """Whether every epoch trains on all images."""
        return self.init_ratio == 1 and self.rm_easy_ratio_first == self.rm_easy_ratio_second == 0

    def rows(self, epoch: int, ranking: Sequence[Tensor]) -> Tensor:
        """The row numbers that an epoch trains on; `ranking` has those of each class, from easy to hard."""
        return torch.cat([self._part(epoch, rows) for rows in ranking])

    def _part(self, epoch: int, rows: Tensor) -> Tensor:
        m = len(rows)
        if epoch <= self.add_end_epoch:
            grown = epoch / self.add_end_epoch if self.add_end_epoch else 1.0
            return rows[: max(1, int((self.init_ratio + (1 - self.init_ratio) * grown) * m))]
        if epoch <= self.rm_epoch_first:
            return rows
        dropped = self.rm_easy_ratio_first if epoch <= self.rm_epoch_second else self.rm_easy_ratio_second
        return rows[int(dropped * m) :]
