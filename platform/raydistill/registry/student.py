"""What the registry tells of a version of a student, read from its tags; older versions have fewer of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FIGURES_TAG, COMPARED_TAG, GATE_TAG = "figures", "compared_by", "gate"
LICENCE_TAG, PARAMETERS_TAG, BYTES_TAG, NOTE_TAG = "licence", "parameters", "bytes", "figures_note"
STUDENT, TEACHER, BASELINE = "student", "teacher", "baseline"


@dataclass(frozen=True)
class FiguresRow:
    """Held-out figures of one model of an evaluation: ``role`` is student, teacher or baseline."""

    role: str
    name: str
    figures: Mapping[str, float]
    runs: int = 1
    """Runs whose mean the figures are."""


@dataclass(frozen=True)
class StudentVersion:
    """One version of a registered student."""

    name: str
    number: int
    tags: Mapping[str, str]
    aliases: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those that MLflow keeps with the model, for a version whose tags have no figures."""
    run_id: str | None = None
    """The tracked run that registered it."""

    @property
    def rows(self) -> list[FiguresRow]:
        """The student's figures first, then those of teachers and baseline as far as they are known."""
        found = rows_of(self.tags)
        return found or ([FiguresRow(STUDENT, STUDENT, self.metrics)] if self.metrics else [])

    @property
    def figures(self) -> Mapping[str, float]:
        """Those of the student, none when they are not known."""
        return next((row.figures for row in self.rows if row.role == STUDENT), {})

    @property
    def compared_by(self) -> tuple[str, bool] | None:
        """The metric that tells which version is better, and whether the highest is; None where no job said it."""
        found = _json(self.tags, COMPARED_TAG, dict)
        return (str(found["metric"]), bool(found["greater_is_better"])) if found else None

    @property
    def gate(self) -> dict[str, Any] | None:
        """The gate of the job, None where it has none."""
        return _json(self.tags, GATE_TAG, dict)

    @property
    def title(self) -> str:
        """Such as ``student version 3``."""
        return f"{self.name} version {self.number}"

    def as_data(self) -> dict[str, Any]:
        """The version as JSON-ready data; what is not known is null or left out."""
        told = {name: text for name, text in self.tags.items() if name not in (FIGURES_TAG, COMPARED_TAG, GATE_TAG)}
        return {
            "name": self.name,
            "version": self.number,
            "aliases": list(self.aliases),
            "lineage": {name: told[name] for name in _LINEAGE if name in told},
            "method_options": method_options(self.tags),
            "figures": [asdict(row) for row in self.rows],
            "parameters": size(self.tags, PARAMETERS_TAG),
            "bytes": size(self.tags, BYTES_TAG),
            "latency_ms": self.figures.get("latency_ms"),
            "licence": told.get(LICENCE_TAG),
            "gate": self.gate,
            "tags": told,
        }


_LINEAGE = ("job", "run", "method", "teacher", "teacher_hash", "corpus", "corpus_hash", "campaign", "layer_plan")


def rows_of(tags: Mapping[str, str]) -> list[FiguresRow]:
    """The rows of figures that tags have."""
    return [FiguresRow(**row) for row in _json(tags, FIGURES_TAG, list) or []]


def figures_tag(rows: Sequence[FiguresRow]) -> dict[str, str]:
    """Rows of figures as a tag, none when there are none."""
    return {FIGURES_TAG: json.dumps([asdict(row) for row in rows])} if rows else {}


def method_options(tags: Mapping[str, str]) -> dict[str, Any]:
    """Options of the method, none when they are not known."""
    return dict(_json(tags, "method_options", dict) or {})


def size(tags: Mapping[str, str], name: str) -> int | None:
    """Parameters or bytes as a number, None when they are not known."""
    text = tags.get(name, "")
    return int(text) if text.isdigit() else None


def _json(tags: Mapping[str, str], name: str, kind: type) -> Any:
    """A tag's content; None for one that is missing, or that somebody else has put something other into."""
    try:
        found = json.loads(tags[name])
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, kind) else None
