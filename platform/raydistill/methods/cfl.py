"""Common feature learning: states of student and teachers meet in one space, besides vanilla distillation.

Luo et al. 2019, "Knowledge Amalgamation from Heterogeneous Networks by Common Feature Learning", IJCAI, as Li et al.
2022 use it for text; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.losses.hidden_states import mean_squared_difference
from raydistill.losses.matched_states import by_row
from raydistill.losses.mmd import mmd
from raydistill.methods import _alignment
from raydistill.methods._base import Requirements, row_count

_NARROWER = 4
"""How many times the student's states are wider than the common space."""


@dataclass(frozen=True)
class Config(_alignment.AlignmentConfig):
    """The last layer of each model by default."""

    num_aligned_layers: int = 1
    """How many layers are aligned, from the last one down in each model, published as ``align_number``; -1 for as many
    as the student has."""


class Block(nn.Module):
    """Maps of one layer: each model's states into the common space, which one extractor reads, and back."""

    def __init__(self, width: int, teacher_widths: Sequence[int]) -> None:
        super().__init__()
        common = width // _NARROWER
        self.align_s = nn.Sequential(nn.Linear(width, common), nn.ReLU())
        self.align_t = nn.ModuleList(nn.Sequential(nn.Linear(one, common), nn.ReLU()) for one in teacher_widths)
        self.extractor = nn.Sequential(nn.Linear(common, common), nn.ReLU(), nn.Linear(common, common))
        self.dec_t = nn.ModuleList(
            nn.Sequential(nn.Linear(common, one), nn.ReLU(), nn.Linear(one, one)) for one in teacher_widths
        )

    def forward(self, student: Tensor, teachers: Sequence[Tensor], layout: Layout) -> tuple[Tensor, Tensor]:
        """Discrepancy of the rows' features times the number of rows, and the sum of the states' squared errors.

        Both are sums over teachers. A row's features are those of its states side by side, 0 where there is none.
        """
        own = by_row(self.extractor(self.align_s(student)), layout)
        align, rec = [], []
        for states, encode, decode in zip(teachers, self.align_t, self.dec_t, strict=True):
            features = self.extractor(encode(states))
            align.append(mmd(own, by_row(features, layout)))
            rec.append(mean_squared_difference(decode(features), states).sum())
        return layout.num_rows * torch.stack(align).sum(), torch.stack(rec).sum()


class Method(_alignment.AlignmentDistiller):
    """``kd_alpha * kd + align_alpha * align + rec_alpha * rec``."""

    BLOCK = Block

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers that run; the rows of a micro-batch are compared with each other."""
        return _alignment.of_running_teachers(row_coupled=True)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """States for ``rec``, rows for the others: a micro-batch's discrepancy counts as often as it has rows."""
        rows = row_count(batch)
        return {"kd": rows, "agreement": rows, "align": rows, "rec": _alignment.token_count(self.config, batch)}

    @staticmethod
    def matching_layer(below: int, student_depth: int, teacher_depth: int) -> int:
        """The teacher's hidden state that is equally many below its own last."""
        return teacher_depth - below
