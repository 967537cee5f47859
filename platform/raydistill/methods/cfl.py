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
from raydistill.losses.mean_discrepancy import mmd
from raydistill.methods import _integration
from raydistill.methods._base import Requirements, Term, Terms
from raydistill.methods._integration import Labels

_NARROWER = 4
"""The student's hidden size divided by that of the common space."""


@dataclass(frozen=True)
class Config(_integration.AlignmentConfig):
    """By default the last layer of each model."""

    num_aligned_layers: int = 1
    """The number of aligned layers, from the last one down in each model, published as ``align_number``; -1 for as many
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


class Method(_integration.IntegrationDistiller[Config]):
    """``kd_alpha * kd + align_alpha * align + rec_alpha * rec``.

    >>> loss, terms = rd.CFL().build(student, [teacher, other_teacher])(batch)
    >>> sorted(terms)
    ['agreement', 'align', 'kd', 'rec']
    """

    directions = {"kd": False, "agreement": True, "align": False, "rec": False}

    def __init__(
        self, config: Config, student: nn.Module, teachers: Sequence[nn.Module] = (), *, teacher_labels: Labels = ()
    ) -> None:
        """``teacher_labels``: see ``ClassUnion``."""
        super().__init__(config, student, teachers, teacher_labels=teacher_labels)
        models = (student, *self.teachers)
        self.adapters = _integration.make_adapters(config, Block, models, matching_layer)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers that run; the rows of a micro-batch are compared with each other."""
        return _integration.aligns_states(batch_dependent=True, pad_to=config.pad_to)

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """See ``check_alignment``."""
        _integration.check_alignment(config, student_config, teacher_configs, matching_layer)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows, over states for ``rec``; a micro-batch's discrepancy counts as often as it has rows."""
        states = _integration.num_states(self.config, batch)
        return _integration.alignment_terms(self.config, batch, align=batch.num_rows, rec=states)

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        _integration.add_alignment(terms, self, self.classes, self.adapters, batch)


def matching_layer(below: int, student_depth: int, teacher_depth: int) -> int:
    """The teacher's hidden state that is equally many layers below its own last."""
    return teacher_depth - below
