"""Common feature learning: states of student and teachers meet in one space, besides vanilla distillation.

Luo et al. 2019, "Knowledge Amalgamation from Heterogeneous Networks by Common Feature Learning", IJCAI, as Li et al.
2022 use it for text; code lancopku/MUKI @ 703fd17. Formulas and deviations: see README.md in this folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.layout import Layout
from raydistill.losses.hidden_states import mean_squared_difference
from raydistill.losses.matched_states import by_row
from raydistill.losses.mmd import mmd
from raydistill.methods import _alignment
from raydistill.methods._base import Requirements, row_count
from raydistill.methods._integration import IntegrationDistiller

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
            config, lambda: Block(own.hidden_size, widths), len(self.layers[0]), student=student, bias_decay=None
        )

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers that run; the rows of a micro-batch are compared with each other."""
        return _alignment.of_running_teachers(row_coupled=True)

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse scores, layers that a model lacks, and padding of decoders."""
        _alignment.check_alignment(config, student_config, teacher_configs, matching_layer)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """States for ``rec``, rows for the others: a micro-batch's discrepancy counts as often as it has rows."""
        rows = row_count(batch)
        return {"kd": rows, "agreement": rows, "align": rows, "rec": _alignment.token_count(self.config, batch)}

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        return _alignment.alignment_loss(self, batch, denominators, layers=self.layers, adapters=self.adapters)


def matching_layer(below: int, student_depth: int, teacher_depth: int) -> int:
    """The teacher's hidden state for the student's that is ``below`` the last: equally many below its own last."""
    return teacher_depth - below
