"""Where a training has its teachers' outputs from: a capture that is named, one of its own, or teachers that run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raydistill.config.matrix import axes
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart, open_mixture
from raydistill.methods._teacher_scores import DROPOUT_SCORES, ScoreConfig
from raydistill.stages import _corpora, _stored
from raydistill.stages._base import Forecast

AUTO, LIVE, STORED = _stored.AUTO, _stored.LIVE, _stored.STORED
CAPTURED = "captured"
"""Value of a teacher's ``placement`` that stores its outputs."""
HEAD = "sequence_classification"
"""Head of the teachers that a training can capture by itself."""
KINDS = ("logits", "cls_states", DROPOUT_SCORES)
"""What it captures of them; how scores of passes with dropout are made is the method's to say."""
_OTHER_OUTPUTS = ("corpus", "task", "teachers", "teacher_outputs")
"""Keys of a stage on which, or on a part of which, it depends what is read of which teacher on which rows."""


@dataclass(frozen=True)
class Rows:
    """Sizes of what a training reads, each None while it is not known."""

    epoch: int | None
    """Rows of an epoch, weights and ``few_shot`` counted."""
    corpus: int | None
    """Rows to train on that a capture runs teachers over: each of each corpus once."""


@dataclass(frozen=True)
class Choice:
    """What was chosen and why."""

    source: str
    """``live``, ``stored``, or the name of the capture."""
    why: str = ""
    """Nothing where the user chose it, or no teacher is read."""
    instead: str = ""
    """What the user may write to have the other, where that can be."""

    @property
    def is_stored(self) -> bool:
        """Whether no teacher runs while the student learns."""
        return self.source != LIVE

    @property
    def is_own(self) -> bool:
        """Whether the training captures what it reads, unless that is there."""
        return self.source == STORED

    @property
    def lines(self) -> list[str]:
        """What a preflight says of it."""
        overriding = f"; teacher_outputs: {self.instead} overrides it" if self.instead else ""
        return [f"teacher outputs: {self.source}, because {self.why}{overriding}"] if self.why else []


def choose(config: Any, rows: Callable[[], Rows]) -> Choice:
    """What the key ``teacher_outputs`` of a training leads to; ``rows`` is asked only where it decides.

    Raises ValueError, with one line, for a value that the method or the task cannot have.
    """
    asked, needed = config.teacher_outputs, config.task.task.NEEDS_STORED
    if needed and asked in _stored.KEYWORDS:
        raise ValueError(
            f"teacher_outputs is {asked!r}, but task {config.task.name} reads stored {', '.join(needed)}; "
            "name a capture stage"
        )
    captured = [number for number, teacher in enumerate(config.teachers) if teacher.placement == CAPTURED]
    where = f"teachers.{captured[0]}.placement is 'captured'" if captured else ""
    if asked == LIVE and captured:
        raise ValueError(f"{where}, but teacher_outputs is 'live'; leave one of them out")
    if asked == LIVE or asked not in _stored.KEYWORDS:
        return Choice(asked)
    obstacle = _obstacle(config)
    if asked == STORED or captured:
        if obstacle is not None:
            raise ValueError(f"{where or 'teacher_outputs is ' + repr(asked)}, but {obstacle[0]}; {obstacle[1]}")
        return Choice(STORED, where)
    if not _stored.kinds_of(config) and not config.method.distils:
        return Choice(LIVE)
    return Choice(LIVE, obstacle[0]) if obstacle is not None else _cheaper(config, rows())


def may_capture(config: Any) -> bool:
    """Whether a training whose teachers run may capture what they say instead."""
    return bool(config.teacher_outputs == AUTO and _obstacle(config) is None)


def of_forecast(config: Any, earlier: Mapping[str, Forecast]) -> Choice:
    """The choice before any stage runs."""
    return choose(config, lambda: _forecast_rows(config, earlier))


def of_corpus(config: Any, parts: list[CorpusPart]) -> Choice:
    """The choice once the corpora that it trains on are there."""
    return choose(
        config,
        lambda: Rows(len(open_mixture(parts)), sum(len(Corpus.open(uri)) for uri in {part.uri for part in parts})),
    )


def _forecast_rows(config: Any, earlier: Mapping[str, Forecast]) -> Rows:
    whole = _corpora.whole(config.corpus)
    return Rows(_corpora.forecast(config.corpus, earlier).rows, _corpora.forecast(whole, earlier).rows)


def _obstacle(config: Any) -> tuple[str, str] | None:
    """Why a training cannot capture what it reads, and what to do instead; None where it can."""
    method, task = config.method, config.task
    live = "write teacher_outputs: live"
    if not method.distils:
        return f"neither method {method.name} nor task {task.name} reads teachers", "leave it out"
    kinds = _stored.kinds_of(config)
    if not kinds:
        return f"method {method.name} has to run its teachers", live
    if task.head != HEAD:
        return f"outputs of task {task.name}, which needs a {task.head} head, are not stored", live
    beyond = [kind for kind in kinds if kind not in KINDS]
    if beyond or (DROPOUT_SCORES in kinds and not isinstance(method.config, ScoreConfig)):
        what = beyond[0] if beyond else DROPOUT_SCORES
        return f"method {method.name} reads {what}, which need options", "name a capture stage that stores them"
    for number, teacher in enumerate(config.teachers):
        if teacher.head == "new":
            return f"teachers.{number}.head is 'new', whose weights are not trained", "train it first"
        if teacher.placement not in (AUTO, CAPTURED):
            return f"teachers.{number}.placement is {teacher.placement!r}", "leave placement out"
    return None


def _cheaper(config: Any, rows: Rows) -> Choice:
    """Stored, unless a training ends before it has read as many rows as a capture would run its teachers over."""
    alike = _runs_alike(config)
    runs = "this training reads" if alike == 1 else f"{alike} runs of this training read"
    read = None if rows.epoch is None else alike * _rows_read(config.training, rows.epoch)
    if read is None or rows.corpus is None:
        return Choice(STORED, _why_unknown(config, alike, runs), LIVE)
    if read < rows.corpus:
        return Choice(LIVE, f"{runs} {read:,} rows, fewer than the {rows.corpus:,} that would be stored", STORED)
    return Choice(STORED, f"{runs} {read:,} rows and the teachers then see each of {rows.corpus:,} once", LIVE)


def _why_unknown(config: Any, alike: int, runs: str) -> str:
    training = config.training
    steps = min(training.max_steps or math.inf, training.stop_after_steps or math.inf)
    if steps == math.inf:
        epochs = alike * min(training.num_epochs, training.stop_after_epochs or training.num_epochs)
        fewer = any(reference.few_shot or reference.weight < 1 for reference in config.corpus)
        return f"{runs} {epochs} epochs" + (", unless few_shot or weight leave fewer rows" if fewer else "")
    return f"{runs} {alike * int(steps) * training.batch_size:,} rows, unless the corpus turns out to have more"


def _rows_read(training: Any, epoch: int) -> int:
    """Rows of all optimizer steps, evaluations left out."""
    per_epoch = max(1, -(-epoch // training.batch_size))
    steps = min(per_epoch * training.num_epochs, training.max_steps or math.inf)
    last = training.last_step(int(steps), steps_per_epoch=per_epoch)
    return round(last * epoch / per_epoch)


def _runs_alike(config: Any) -> int:
    """Runs of the stage's matrix that read the same outputs as this one."""
    alike = 1
    for key, choices in axes(config.matrix).items():
        # Another method may read others, another option of it seldom does.
        if key != "method" and key.partition(".")[0] not in _OTHER_OUTPUTS:
            alike *= len(choices)
    return alike
