"""The data curriculum of PAD's experts: easy images first, then all, then without the easiest.

Li et al., "Prioritize Alignment in Dataset Distillation", 2024, arXiv 2408.03360; epochs and parts are those of the
released code.
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor


class Curriculum(BaseModel):
    """What part of each class an epoch e = 0, 1, ... trains on. Of m images, sorted from easy to hard, that is

        e <= add_end_epoch       the first floor(p m), p = init_ratio + (1 - init_ratio) e / add_end_epoch
        e <= rm_epoch_first      all
        e <= rm_epoch_second     all but the first floor(rm_easy_ratio_first m)
        later                    all but the first floor(rm_easy_ratio_second m)

    and never fewer than one. How hard they are is scored by `score_networks` networks after `score_epochs` epochs
    (`rank_by_difficulty`).

    The epochs must come in this order, or a part of it would not be what it is said to be; two may be the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    init_ratio: float = Field(0.75, gt=0, le=1, description="curriculum: part of each class in epoch 0, the easiest")
    add_end_epoch: int = Field(20, ge=0, description="curriculum: from this epoch on all images")
    rm_epoch_first: int = Field(
        40, ge=0, validate_default=True, description="curriculum: the last epoch with all images"
    )
    rm_epoch_second: int = Field(
        60, ge=0, validate_default=True, description="curriculum: the last epoch of the first removal"
    )
    rm_easy_ratio_first: float = Field(0.1, ge=0, lt=1, description="curriculum: part of each class removed first")
    rm_easy_ratio_second: float = Field(0.2, ge=0, lt=1, description="curriculum: part of each class removed after")
    score_networks: int = Field(10, ge=1, description="curriculum: networks that score the images")
    score_epochs: int = Field(10, ge=1, description="curriculum: epochs of their training")

    @field_validator("rm_epoch_first", "rm_epoch_second")
    @classmethod
    def _in_order(cls, epoch: int, info: ValidationInfo) -> int:
        assert info.field_name is not None
        before = {"rm_epoch_first": "add_end_epoch", "rm_epoch_second": "rm_epoch_first"}[info.field_name]
        least = info.data.get(before, epoch)
        if epoch < least:
            raise ValueError(f"{info.field_name} = {epoch}: must be at least {before} = {least}")
        return epoch

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
