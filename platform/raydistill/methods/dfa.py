"""Feature amalgamation: the student's states follow a code of all teachers' states, besides vanilla distillation.

Shen et al. 2019, "Amalgamating Knowledge towards Comprehensive Classification", AAAI, as Li et al. 2022 use it for
text; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.losses.hidden_states import mean_squared_difference
from raydistill.methods import _alignment
from raydistill.methods._base import Requirements, row_count
from raydistill.methods._integration import IntegrationDistiller

_PUBLISHED_BIAS_DECAY = 1e-4


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


class Method(IntegrationDistiller):
    """``kd_alpha * kd + align_alpha * align + rec_alpha * rec``."""

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teachers: Sequence[nn.Module] = (),
        *,
        teacher_labels: Sequence[Sequence[str]] = (),
    ) -> None:
        super().__init__(config, student, teachers, teacher_labels=teacher_labels)
        own: Any = student.config
        others: list[Any] = [teacher.config for teacher in self.teachers]
        self.layers = _alignment.aligned_layers(config, own, others, matching_layer)
        widths = [one.hidden_size for one in others]
        self.adapters = _alignment.make_adapters(
            config,
            lambda: Block(own.hidden_size, widths),
            len(self.layers[0]),
            student=student,
            bias_decay=_PUBLISHED_BIAS_DECAY,
        )

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers that run; with padding a row's loss depends on the width of its micro-batch."""
        return _alignment.of_running_teachers(row_coupled=not config.mask_padding)

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse scores, layers that a model lacks, and padding of decoders."""
        _alignment.check_alignment(config, student_config, teacher_configs, matching_layer)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Rows for ``kd``, states for the others."""
        rows, tokens = row_count(batch), _alignment.token_count(self.config, batch)
        return {"kd": rows, "agreement": rows, "align": tokens, "rec": tokens}

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        return _alignment.alignment_loss(self, batch, denominators, layers=self.layers, adapters=self.adapters)


def matching_layer(below: int, student_depth: int, teacher_depth: int) -> int:
    """The teacher's hidden state for the student's that is ``below`` the last: as far below, in shares of the depth.

    Where the student's depth divides the teacher's, these are the published ones; the embeddings are never among them.
    """
    return teacher_depth - below * teacher_depth // student_depth
