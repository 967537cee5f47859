"""The contract that every task keeps: which head, how a batch becomes inputs and targets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from raydistill.batch import Batch
from raydistill.user_error import UserError


@dataclass(frozen=True)
class Column:
    """What a corpus keeps of each row beside its token ids, and how many values of it."""

    dtype: str
    """NumPy's name of the values' type, such as ``int64``."""
    per: Literal["row", "token", "list"] = "row"
    """``row``: one value; ``token``: one for each token of the row; ``list``: any number."""


ROW_REASONS = SHORT, UNKNOWN, NO_WORD, LONG_ROW, LONG_PROMPT, LONG_COMPLETION = (
    "short",
    "unknown",
    "no word",
    "long row",
    "long prompt",
    "long completion",
)
"""Why a row is left out, by ``drop_reasons`` or as it is cut."""
CUTS = PROMPT_CUT, COMPLETION_CUT = "prompt cut", "completion cut"
"""What a row that is kept has lost, because it was too long."""


class LabelledRow(NamedTuple):
    """A row of token ids and the values of its columns, by the names that the task's ``columns`` gives."""

    ids: NDArray[np.integer]
    values: Mapping[str, Any]
    fate: str | None = None
    """Why it is left out, of ``ROW_REASONS``, or what it has lost, of ``CUTS``."""


class Rows(list[NDArray[np.integer]]):
    """Rows of token ids of which each is of a single example."""

    def __init__(self) -> None:
        self.example_of: list[int] = []
        """The number of each row's example."""


@dataclass(frozen=True)
class Encoding:
    """What a task knows of the tokenizer and the corpus."""

    vocab_size: int
    special_ids: Mapping[str, int]
    """Ids by role: pad, unk, cls, sep, mask, as far as the tokenizer has them."""
    all_special_ids: tuple[int, ...]
    """Ids that are never targets."""
    max_length: int
    """Longest row, special tokens included."""
    token_counts: NDArray[np.int64] | None = field(default=None, compare=False)
    """Occurrences of each id in the corpus, (vocab_size,)."""
    num_rows: int = 0
    """Rows of the corpus; row ids are below it."""
    labels: tuple[str, ...] = ()
    """The names of the classes in the order of their ids; empty where there are none."""

    def special_id(self, role: str) -> int:
        """Id of a role; raises ValueError when the tokenizer has no such token."""
        if role not in self.special_ids:
            raise UserError(f"the tokenizer has no {role} token; it has: {', '.join(sorted(self.special_ids))}")
        return self.special_ids[role]


ConfigT = TypeVar("ConfigT")
"""The type of a task's options."""


class TaskBase(ABC, Generic[ConfigT]):
    """A task; its module names the subclass ``Task``.

    Beside it are ``Config`` and ``EncodeConfig``, which has ``max_length``, and how examples become rows: ``cut``
    makes rows of them, ``drop_reasons`` tells which are left out, and ``columns`` what each has beside its ids; with
    columns ``cut`` gives ``LabelledRow``, without it arrays of ids, in ``Rows`` where it can. An ``EncodeConfig`` of
    classes has their names in ``labels``.
    """

    HEAD: ClassVar[str]
    """Head that models need for the task."""
    ENCODINGS: ClassVar[tuple[str, ...]] = ()
    """The names of other tasks whose corpora it reads too."""
    TEACHER_TOKENIZERS: ClassVar[bool] = False
    """Whether corpora can have its rows in the ids of teacher tokenizers: ``cut`` makes one row of each example, whose
    values have ``second``, and nothing that is told of single tokens."""
    READS_TOKEN_COUNTS: ClassVar[bool] = False
    """Whether it draws by how often token ids occur in the corpus."""
    NEEDS_STORED: ClassVar[tuple[str, ...]] = ()
    """Kinds of stored teacher outputs that it makes its labels of, such as ``logits``."""
    ROW_METRICS: ClassVar[tuple[str, ...]] = ()
    """Metrics that are means over rows, or functions of one, of which what is told of each row has the values."""

    def __init__(self, config: ConfigT, encoding: Encoding) -> None:
        self.config = config
        self.encoding = encoding

    @abstractmethod
    def prepare_batch(self, batch: Batch) -> Batch:
        """Write inputs and targets; a function of the rows, their ids, the seed and the epoch alone.

        Of each row it is a function alone, unless ``batch_dependent``. Partners, where there are any, get inputs and
        targets too.
        """

    @classmethod
    def outputs(cls, config: ConfigT, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Names of what a classifier's outputs stand for, given the names of the corpus's classes: here the same."""
        return labels

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what a classifier's outputs stand for, none for a single score."""
        return self.outputs(self.config, self.encoding.labels)

    @classmethod
    def batch_dependent(cls, config: ConfigT) -> bool:
        """Whether inputs or targets of a row depend on the other rows of its micro-batch."""
        return False

    @classmethod
    @abstractmethod
    def higher_is_better(cls, config: ConfigT, labels: Sequence[str] | None = None) -> dict[str, bool]:
        """The metrics that models can be compared by, its own first, and of each whether a greater value is better.

        ``labels`` name the corpus's classes, none for scores. While they are not known, all that there may be.
        """

    @classmethod
    def figures(cls, config: ConfigT, labels: Sequence[str]) -> dict[str, bool | None]:
        """All figures that it may have of a corpus with these classes, and of each whether a greater value is better.

        None for a count, of which neither is.
        """
        return {**cls.higher_is_better(config, labels), "rows": None, "tokens": None}

    @abstractmethod
    def score(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sums over a batch's targets from which ``metrics`` follow, float64; switches no dropout off.

        Those of all batches and ranks are added, so their shapes are fixed and the cut into batches must not matter. A
        value for each row of the corpus is such a sum too: of vectors that are 0 but for the batch's rows.
        """

    @abstractmethod
    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Metrics from the added sums, floats or float64 arrays: those of ``higher_is_better`` and counts.

        Raises ValueError with one line when there is nothing to score.
        """

    def predictions(self, sums: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a model said of each row that was scored, from the added sums: columns of equal length by their names.

        ``row_id`` is among them, with ``label`` and ``prediction``, of classes as their names. None for a task that
        does not tell: one whose targets are tokens of a vocabulary, of which ``score_rows`` tells each row's sums.
        """
        return None

    def score_rows(self, student: nn.Module, batch: Batch) -> dict[str, Tensor] | None:
        """The sums of ``score`` for each row of a batch by itself, (B,) each; None where ``predictions`` has rows."""
        return None
