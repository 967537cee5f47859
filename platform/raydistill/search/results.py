"""What a campaign leaves: its trials, each with what it tried and what came of it, in one file."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from raydistill.atomic import write_json
from raydistill.search.domains import Values

RECORDS = "trials.json"
TRIALS = "trials"
"""Folder of the trials' outputs below a campaign's."""

State = Literal["finished", "failed", "stopped", "pending"]
ENDED: tuple[State, ...] = ("finished", "failed", "stopped")
"""States that a resumed campaign keeps."""


@dataclass(frozen=True)
class TrialEvent:
    """An evaluation of a trial, sent from its training to its record; the last one is of the finished student."""

    trial: int
    values: Values
    """Dotted keys of the job and the values that the trial gives them now."""
    step: int
    """Optimizer steps taken."""
    metric: float
    """The campaign's metric."""
    metrics: dict[str, float]
    """All metrics of the evaluation."""
    folder: Path
    """The trial's output."""
    course: list[dict[str, Any]] = field(default_factory=list)
    """See ``Trial.course``."""
    finished: bool = False
    """Whether the trial trained to its end, after which it has nothing more to tell."""


@dataclass(frozen=True)
class Trial:
    """One trial of a campaign."""

    number: int
    """From 0, in the order in which trials were suggested."""
    overrides: Values
    """Dotted keys of the job and the values that the trial gave them."""
    state: State
    """``finished``: trained to its end; ``stopped``: by the scheduler or at the end of the time; ``failed``: see
    ``reason``; ``pending``: not started, or interrupted."""
    metric: float | None
    """The campaign's metric: of a finished trial that of its student, else the latest that was found."""
    metrics: dict[str, float]
    """All metrics, as for ``metric``."""
    seconds: float
    steps: int
    """Optimizer steps taken."""
    reason: str
    """Why it failed or was stopped, in one line, else empty."""
    folder: Path
    """Its output, with the student in ``student`` where it finished."""
    reports: list[dict[str, float]] = field(default_factory=list)
    """The evaluations that the scheduler was told, in order: a resumed campaign tells it again."""
    sample: Values = field(default_factory=dict)
    """The values as the searcher drew them, places in its list for a choice."""
    course: list[dict[str, Any]] = field(default_factory=list)
    """How the student of a population came about: from each ``step`` on, which ``trial`` trained it with which
    ``values``."""

    def after(self, event: TrialEvent, *, seconds: float) -> "Trial":
        """The trial once it has told of an evaluation, ``seconds`` after it began."""
        report = {**event.metrics, "metric": event.metric, "step": float(event.step)}
        return replace(
            self,
            overrides=dict(event.values),
            state="finished" if event.finished else self.state,
            metric=event.metric,
            metrics=dict(event.metrics),
            seconds=seconds,
            steps=event.step,
            folder=event.folder,
            reports=self.reports if event.finished else [*self.reports, report],
            course=list(event.course),
        )

    def events(self) -> list[TrialEvent]:
        """What the trial told, the finished student included."""
        told = []
        for report in self.reports:
            metrics = {name: value for name, value in report.items() if name not in ("metric", "step")}
            step, metric = int(report["step"]), report["metric"]
            told.append(TrialEvent(self.number, self.overrides, step, metric, metrics, self.folder))
        if self.state == "finished":
            assert self.metric is not None
            last = TrialEvent(self.number, self.overrides, self.steps, self.metric, self.metrics, self.folder)
            told.append(replace(last, finished=True))
        return told

    @property
    def is_measured(self) -> bool:
        """Whether it has a metric that a picture has a place for."""
        return self.metric is not None and math.isfinite(self.metric)

    @property
    def origin(self) -> str:
        """Which trial it last went on from, empty for one that is no copy."""
        if len(self.course) < 2:
            return ""
        return f"went on from trial {self.course[-2]['trial']} at step {self.course[-1]['step']}"

    def course_lines(self) -> list[str]:
        """The course of a copy in words, nothing for a trial that is none."""
        if not self.origin:
            return []
        return [f"from step {part['step']} as trial {part['trial']}: {listed(part['values'])}" for part in self.course]


@dataclass(frozen=True)
class CampaignResult:
    """A campaign as far as it came."""

    folder: Path
    trials: list[Trial]
    """By number."""
    best: Trial | None
    """The finished trial with the best metric, None where none finished."""
    lost: str = ""
    """What the tracking store will never have, and why, in one line."""


def listed(values: Mapping[str, Any]) -> str:
    """Values of keys in one line."""
    return ", ".join(f"{key}={value}" for key, value in values.items())


def best_of(trials: Iterable[Trial], *, mode: str) -> Trial | None:
    """The finished trial with the best metric for a mode of ``min`` or ``max``, of equals the first."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.metric is not None]
    sign = 1 if mode == "max" else -1
    return max(finished, key=lambda trial: (sign * (trial.metric or 0.0), -trial.number), default=None)


def write_trials(folder: Path, trials: Sequence[Trial], *, identity: str, seconds: float) -> None:
    """Store a campaign's trials in one rename; ``identity`` tells what was searched, ``seconds`` how long so far."""
    rows = [{**asdict(trial), "folder": str(trial.folder)} for trial in trials]
    write_json(folder / RECORDS, {"identity": identity, "seconds": round(seconds, 3), "trials": rows}, indent=2)


def read_campaign(folder: Path) -> Mapping[str, Any] | None:
    """What ``write_trials`` stored: ``identity``, ``seconds`` and ``trials``; None where nothing is."""
    path = folder / RECORDS
    if not path.is_file():
        return None
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    stored["trials"] = [Trial(**{**row, "folder": Path(row["folder"])}) for row in stored["trials"]]
    return stored
