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
from raydistill.methods import _integration
from raydistill.methods._base import Requirements, Term, Terms
from raydistill.methods._integration import Labels

_PUBLISHED_DECAY = 1e-4
"""See ``GroupRule.bias_decay``."""


@dataclass(frozen=True)
class Config(_integration.AlignmentConfig):
    """By default all layers of the student, each with the teacher layer at the same fraction of the depth."""


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


class Method(_integration.IntegrationDistiller[Config]):
    """``kd_alpha * kd + align_alpha * align + rec_alpha * rec``.

    >>> loss, terms = rd.DFA().build(student, [teacher, other_teacher])(batch)
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
        self.adapters = _integration.make_adapters(config, Block, models, matching_layer, bias_decay=_PUBLISHED_DECAY)

    @classmethod
    def requirements(cls, config: Config) -> Requirements:
        """Any number of teachers that run; with padding a row's loss depends on its width, often its micro-batch's."""
        depends = not config.mask_padding and config.pad_to is None
        return _integration.aligns_states(batch_dependent=depends, pad_to=config.pad_to)

    @classmethod
    def check(cls, config: Config, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """See ``check_alignment``."""
        _integration.check_alignment(config, student_config, teacher_configs, matching_layer)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Means over rows for ``kd``, over states for ``align`` and ``rec``."""
        states = _integration.num_states(self.config, batch)
        return _integration.alignment_terms(self.config, batch, align=states, rec=states)

    def add_terms(self, terms: Terms, batch: Batch) -> None:
        """See the base class."""
        _integration.add_alignment(terms, self, self.classes, self.adapters, batch)


def matching_layer(below: int, student_depth: int, teacher_depth: int) -> int:
    """The teacher's hidden state as far below its last, as a fraction of the depth, as the student's is.

    If the student's depth divides the teacher's, these are the published ones, never the embeddings.
    """
    return teacher_depth - below * teacher_depth // student_depth
