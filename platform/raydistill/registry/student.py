"""What the registry knows of a version of a student, read from its tags; older versions have fewer of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from raydistill.discovery import unknown_choice
from raydistill.registry.reference import ModelReference
from raydistill.user_error import UserError

FIGURES_TAG, COMPARED_TAG, GATE_TAG = "figures", "compared_by", "gate"
LICENSE_TAG, PARAMETERS_TAG, BYTES_TAG, NOTE_TAG = "license", "parameters", "bytes", "figures_note"
STUDENT, TEACHER, BASELINE, EXPORT = "student", "teacher", "baseline", "export"
_LINEAGE = ("job", "run", "method", "teacher", "teacher_hash", "corpus", "corpus_hash", "campaign", "layer_plan")


@dataclass(frozen=True)
class FiguresRow:
    """Validation figures of one model of an evaluation: ``role`` is student, teacher, baseline or export.

    The name of an export is its format.
    """

    role: str
    name: str
    figures: Mapping[str, float]
    runs: int = 1
    """Runs whose mean the figures are."""

    @property
    def title(self) -> str:
        """Such as ``teacher (large)``; the role alone where the name says no more."""
        return self.role if self.name == self.role else f"{self.role} ({self.name})"


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
    source: str = ""
    """URI under which MLflow keeps its files."""
    created_ms: int = 0
    """When it was registered, in ms since 1970."""

    @property
    def rows(self) -> list[FiguresRow]:
        """The student's figures first, then those of teachers, baseline and exports as far as they are known."""
        found = rows_of(self.tags)
        return found or ([FiguresRow(STUDENT, STUDENT, self.metrics)] if self.metrics else [])

    @property
    def figures(self) -> Mapping[str, float]:
        """Those of the student, none when they are not known."""
        return next((row.figures for row in self.rows if row.role == STUDENT), {})

    @property
    def exports(self) -> list[str]:
        """Formats of the exports that are kept with it."""
        return [row.name for row in self.rows if row.role == EXPORT]

    @property
    def compared_by(self) -> tuple[str, bool] | None:
        """The metric by which versions are compared and whether the highest is best; None where no job names one."""
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

    @property
    def content_key(self) -> str:
        """16 hexadecimal digits that a version made anew under the same number does not share."""
        content = f"{self.name} {self.number} {self.source} {self.created_ms}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def as_data(self) -> dict[str, Any]:
        """The version as JSON-ready data; what is not known is null or left out."""
        plain = {name: text for name, text in self.tags.items() if name not in (FIGURES_TAG, COMPARED_TAG, GATE_TAG)}
        return {
            "name": self.name,
            "version": self.number,
            "aliases": list(self.aliases),
            "lineage": {name: plain[name] for name in _LINEAGE if name in plain},
            "method_options": method_options(self.tags),
            "figures": [asdict(row) for row in self.rows],
            "exports": self.exports,
            "parameters": size(self.tags, PARAMETERS_TAG),
            "bytes": size(self.tags, BYTES_TAG),
            "latency_ms": self.figures.get("latency_ms"),
            "license": plain.get(LICENSE_TAG),
            "gate": self.gate,
            "tags": plain,
        }


@dataclass(frozen=True)
class RegisteredStudent:
    """A registered name with all of its versions, the newest first."""

    name: str
    versions: tuple[StudentVersion, ...]
    aliases: Mapping[str, int]

    @property
    def best(self) -> tuple[str, float, int] | None:
        """Metric, value and version of the best one by the metric of the newest version that has one; None if none."""
        compared = next((one.compared_by for one in self.versions if one.compared_by is not None), None)
        if compared is None:
            return None
        metric, greater = compared
        known = [(one.figures[metric], one.number) for one in self.versions if metric in one.figures]
        if not known:
            return None
        value, number = max(known, key=lambda pair: pair[0] if greater else -pair[0])
        return metric, value, number

    def version(self, reference: ModelReference) -> StudentVersion:
        """The version that a reference to this name means; raises ValueError, with the choices, if there is none."""
        if reference.alias is not None:
            number = self._number_of(reference.alias)
        elif reference.version is not None:
            number = reference.version
        else:
            number = max((one.number for one in self.versions), default=0)
        found = next((one for one in self.versions if one.number == number), None)
        if found is not None:
            return found
        known = ", ".join(str(one.number) for one in self.versions) or "none"
        raise UserError(f"version is {number}, which {self.name!r} does not have; versions: {known}")

    def _number_of(self, alias: str) -> int:
        if alias in self.aliases:
            return self.aliases[alias]
        if not self.aliases:
            raise UserError(f"alias is {alias!r}, but {self.name!r} has none; give a version, such as {self.name}/1")
        raise UserError(unknown_choice("alias", alias, sorted(self.aliases)))

    def as_data(self) -> dict[str, Any]:
        """The name, its versions and aliases, the job of the newest version and the best figure, as JSON-ready data."""
        return {
            "name": self.name,
            "versions": [version.number for version in self.versions],
            "aliases": dict(self.aliases),
            "job": self.versions[0].tags.get("job") if self.versions else None,
            "best": None if self.best is None else dict(zip(("metric", "value", "version"), self.best, strict=True)),
        }


def rows_of(tags: Mapping[str, str]) -> list[FiguresRow]:
    """The rows of figures that tags have."""
    return [FiguresRow(**row) for row in _json(tags, FIGURES_TAG, list) or []]


def figures_tag(rows: Sequence[FiguresRow]) -> dict[str, str]:
    """Rows of figures as a tag, none when there are none."""
    return {FIGURES_TAG: json.dumps([asdict(row) for row in rows])} if rows else {}


def figure_cells(rows: Sequence[FiguresRow]) -> list[list[str]]:
    """A line of text cells per figure: its name, then each row's value, empty where it has none."""
    names = dict.fromkeys(name for row in rows for name in row.figures)
    return [[name, *(number(row.figures.get(name)) for row in rows)] for name in names]


def number(value: float | None) -> str:
    """A figure for a reader: whole numbers in groups of three digits, others with four decimals."""
    if value is None:
        return ""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4f}"


def method_options(tags: Mapping[str, str]) -> dict[str, Any]:
    """Options of the method, none when they are not known."""
    return dict(_json(tags, "method_options", dict) or {})


def size(tags: Mapping[str, str], name: str) -> int | None:
    """Parameters or bytes as a number, None when they are not known."""
    text = tags.get(name, "")
    return int(text) if text.isdigit() else None


def _json(tags: Mapping[str, str], name: str, kind: type) -> Any:
    """A tag's content; None where there is none, or where somebody else uses the tag for something else."""
    try:
        found = json.loads(tags[name])
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, kind) else None
