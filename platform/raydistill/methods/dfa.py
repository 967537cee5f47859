"""Feature amalgamation: the student's states follow a code of all teachers' states, besides vanilla distillation.

Shen et al. 2019, "Amalgamating Knowledge towards Comprehensive Classification", AAAI, as Li et al. 2022 use it for
text; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.losses.hidden_states import mean_squared_difference
from raydistill.methods import _alignment
from raydistill.methods._base import Requirements, row_count


@dataclass(frozen=True)
class Config(_alignment.AlignmentConfig):
    """All layers of the student, each with a teacher layer at the same share of its depth."""


class Block(nn.Module):
    """Linear maps of one layer: the teachers' states side by side to a code and back, the student's to the code."""

    def __init__(self, width: int, teacher_widths: Sequence[int]) -> None:
        super().__init__()
        self.teacher_widths = list(teacher_widths)
        self.t_encoder = nn.Linear(sum(teacher_widths), width)
        self.t_decoder = nn.Linear(width, sum(teacher_widths))
        self.s_encoder = nn.Linear(width, width)

    def forward(self, student: Tensor, teachers: Sequence[Tensor], layout: Layout) -> tuple[Tensor, Tensor]:
        """Sums over states of the squared error from the code, which it does not move, and of the teachers' states."""
        code = self.t_encoder(torch.cat([*teachers], dim=-1))
        align = mean_squared_difference(self.s_encoder(student), code.detach()).sum()
        rebuilt = self.t_decoder(code).split(self.teacher_widths, dim=-1)
        pairs = zip(rebuilt, teachers, strict=True)
        return align, torch.stack([mean_squared_difference(*pair).sum() for pair in pairs]).sum()


class Method(_alignment.AlignmentDistiller):
    """``kd_alpha * kd + align_alpha * align + rec_alpha * rec``."""

    BLOCK = Block
    PUBLISHED_BIAS_DECAY = 1e-4

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers that run; with padding a row's loss depends on the width of its micro-batch."""
        return _alignment.of_running_teachers(row_coupled=not config.mask_padding)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Rows for ``kd``, states for the others."""
        rows, tokens = row_count(batch), _alignment.token_count(self.config, batch)
        return {"kd": rows, "agreement": rows, "align": tokens, "rec": tokens}

    @staticmethod
    def matching_layer(below: int, student_depth: int, teacher_depth: int) -> int:
        """The teacher's hidden state as far below its last, in shares of the depth, as the student's is.

        Where the student's depth divides the teacher's, these are the published ones, never the embeddings.
        """
        return teacher_depth - below * teacher_depth // student_depth
