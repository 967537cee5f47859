"""The document of a job's report, from what evaluations and trainings left."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from raydistill.config.matrix import run_name
from raydistill.data.mixture import CorpusPart
from raydistill.data.row_texts import row_texts
from raydistill.report import charts, curves, differences, tables
from raydistill.report.chart import READ, Charts
from raydistill.report.columns import column
from raydistill.report.differences import Predictions
from raydistill.report.document import Block, Document, Listing, Section, Table, Verdict
from raydistill.report.grouping import value_text, without_seed
from raydistill.report.repeat import repeat
from raydistill.report.tables import Cell, Group
from raydistill.report.verdict import EXPORT, OTHER, STUDENT, TEACHER, Judged, verdict
from raydistill.stages import _base
from raydistill.stages._base import Evaluated, Run
from raydistill.tracking.provenance import environment, repeat_command
from raydistill.user_error import UserError

Trained = Sequence[tuple[Run, curves.Training]]


@dataclass(frozen=True)
class Compared:
    """One evaluation: its entries with their references, in the order of its models and runs."""

    name: str
    runs: Sequence[Run]
    facts: Evaluated | None

    def entries(self) -> Iterator[tuple[str, tables.Entry]]:
        """References and entries; matrix keys of the evaluation itself tell its entries apart."""
        yield from ((data["reference"], entry) for data, entry in self._told())

    def _told(self) -> Iterator[tuple[Mapping[str, Any], tables.Entry]]:
        """What the evaluation left of each entry, and the entry."""
        for run in self.runs:
            for data in run.summary["entries"]:
                one = tables.Entry.of(data)
                yield data, tables.Entry(one.model, {**run.assignment, **one.assignment}, one.figures)

    @property
    def groups(self) -> list[Group]:
        """The rows of its table."""
        return tables.group([entry for _, entry in self.entries()])

    @property
    def notes(self) -> list[str]:
        """Sentences on how its figures were found."""
        return list(dict.fromkeys(note for run in self.runs for note in run.summary.get("notes", [])))

    @property
    def metric(self) -> str:
        """The task's own metric; empty for none."""
        return next(iter(self.facts.metrics), "") if self.facts is not None else ""

    def roles(self, trained: Trained) -> dict[str, str]:
        """Whether each row is a student, its teacher, an export or another model, by the row's name."""
        teachers = {
            name for run, _ in trained for name in run.summary.get("lineage", {}).get("teacher", "").split(", ")
        }
        students = {run.name for run, _ in trained} | {run.name.partition("[")[0] for run, _ in trained}
        found: dict[tuple[str, str], str] = {}
        for data, entry in self._told():
            reference = data["reference"]
            key = (entry.model, json.dumps(without_seed(entry.assignment), sort_keys=True))
            is_teacher = bool({reference, run_name(reference, entry.assignment)} & teachers)
            other = EXPORT if data.get("exported") else OTHER
            found[key] = TEACHER if is_teacher else STUDENT if reference in students else other
        return {row.name: found[row.model, json.dumps(row.assignment, sort_keys=True)] for row in self.groups}

    def judged(self, trained: Trained) -> Judged | None:
        """Its rows by what they are; None where the task's metric has no better value."""
        greater = None if self.facts is None else self.facts.directions.get(self.metric)
        if greater is None:
            return None
        return Judged.of(self.groups, self.roles(trained), self.metric, greater_is_better=greater)

    def predictions(self, row: Group) -> Predictions | None:
        """What the first run of a row said; None of a task that does not tell."""
        for run in self.runs:
            files = run.summary.get("predictions", [])
            entries = [tables.Entry.of(data) for data in run.summary["entries"]]
            for entry, file in zip(entries, files, strict=False):
                keys = without_seed({**run.assignment, **entry.assignment})
                if entry.model == row.model and keys == dict(row.assignment):
                    found = Predictions.read(row.name, run.output / file)
                    # Of tokens the sums of each row are kept.
                    return found if "prediction" in found.columns else None
        return None


def document(
    context: _base.StageContext,
    compared: Sequence[Compared],
    trained: Trained,
    *,
    figures: Sequence[Block],
    drawn: Sequence[Charts | Table],
    metric: str,
) -> Document:
    """The page; ``drawn`` are charts and their tables, ``metric`` is told of each training."""
    job = _resolved(context)
    judged = [one.judged(trained) for one in compared]
    # A training that logged nothing has no curves.
    shown = [block for block in drawn if isinstance(block, Table) or block.charts]
    sections = [
        Section("asked", "What was asked", [Listing(_asked(job, compared, trained))]),
        Section("figures", "Figures", figures) if figures else None,
        _price(compared, judged, trained),
        Section("curves", "Curves", shown, READ) if shown else None,
        *(
            _differences(one, found, number=number, of=f" ({one.name})" if len(compared) > 1 else "")
            for number, (one, found) in enumerate(zip(compared, judged, strict=True))
        ),
        Section("lineage", "Lineage", [_runs(trained, metric, context.output)]) if trained else None,
        _repeat(context),
    ]
    tabled = "The tables below compare the models." if figures else "Nothing was compared."
    otherwise = _of_trainings(trained, metric) or Verdict(tabled)
    return Document(
        "Report of a job",
        context.job_name,
        str(job.get("description") or ""),
        _verdict(compared, judged, otherwise),
        [one for one in sections if one is not None],
    )


def _resolved(context: _base.StageContext) -> dict[str, Any]:
    """The job with every default; nothing where a stage runs without one."""
    if context.resolved is None:
        return {}
    found: dict[str, Any] = yaml.safe_load(context.resolved.read_text(encoding="utf-8"))
    return found


def _verdict(compared: Sequence[Compared], judged: Sequence[Judged | None], otherwise: Verdict) -> Verdict:
    """That of the first evaluation that has one, with its name where there are several."""
    for one, of in zip(compared, judged, strict=True):
        if of is not None:
            found = verdict(of)
            return replace(found, sentence=f"{one.name}: {found.sentence}") if len(compared) > 1 else found
    return otherwise


def _of_trainings(trained: Trained, metric: str) -> Verdict | None:
    """What is known where nothing was compared; None for nothing."""
    style, said = column(metric), []
    for run, training in trained:
        points = training.points(curves.TASK + metric)
        if points:
            said.append(f"{run.name} ended with {style.heading} {style.text([*points.values()][-1])}")
    return Verdict("; ".join(said[:3]) + ".") if said else None


def _asked(job: Mapping[str, Any], compared: Sequence[Compared], trained: Trained) -> list[tuple[str, str]]:
    """Trainings, teachers, corpora and evaluations in words."""
    configs = job.get("stages", {})
    stages: dict[str, list[Run]] = {}
    for run, _ in trained:
        stages.setdefault(run.name.partition("[")[0], []).append(run)
    lineages = [run.summary.get("lineage", {}) for run, _ in trained]
    teachers = [name for lineage in lineages for name in lineage.get("teacher", "none").split(", ")]
    corpora = [name for lineage in lineages for name in lineage.get("corpus", "").split(", ")]
    said = {
        "Trained": [f"{name}: {_training(runs, configs.get(name, {}))}" for name, runs in stages.items()],
        "Teacher": [_teacher(name, configs) for name in teachers if name != "none"],
        "Corpus": [_corpus(name, configs) for name in corpora if name],
        "Compared": [_comparison(one) for one in compared],
    }
    return [(term, "\n".join(dict.fromkeys(lines))) for term, lines in said.items() if lines]


def _comparison(one: Compared) -> str:
    names = ", ".join(dict.fromkeys(entry.model for _, entry in one.entries()))
    by = f" by {', '.join(column(name).heading for name in one.facts.metrics)}" if one.facts else ""
    return f"{one.name}: {names}{by}"


def _teacher(name: str, configs: Mapping[str, Any]) -> str:
    """A teacher, with how it was trained where the job did that."""
    training = configs.get(name, {}).get("training", {})
    length = f"{training['max_steps']:,} steps" if training.get("max_steps") else ""
    method = configs.get(name, {}).get("method", {}).get("name", "")
    return ", ".join(part for part in (f"{name}: {method}" if method else name, length) if part)


def _corpus(name: str, configs: Mapping[str, Any]) -> str:
    """A corpus, with its source where the job made it of one."""
    source = configs.get(name, {}).get("source", {})
    if not isinstance(source, Mapping):
        return name
    known = [str(source[key]) for key in ("name", "package", "path") if source.get(key)]
    return f"{name}: {', '.join(known)}" if known else name


def _training(runs: Sequence[Run], config: Mapping[str, Any]) -> str:
    """A training's methods, and how long and with how many runs of each."""
    methods = dict.fromkeys(_method(run) for run in runs)
    steps = config.get("training", {}).get("max_steps")
    rows = config.get("training", {}).get("batch_size")
    length = [f"{steps:,} steps" if steps else "", f"{rows} rows a step" if rows else ""]
    seeds = len({run.assignment.get("seed") for run in runs})
    known = [*length, f"{seeds} seeds" if seeds > 1 else ""]
    return ", ".join(part for part in (" and ".join(methods), *known) if part)


def _method(run: Run) -> str:
    """A method with the options that its matrix tells; all of them are in the configuration."""
    name = run.summary.get("lineage", {}).get("method", "")
    keys = [f"{key}={value_text(value)}" for key, value in run.assignment.items() if key not in ("seed", "method")]
    return f"{name} ({', '.join(keys)})" if keys else name


def _price(compared: Sequence[Compared], judged: Sequence[Judged | None], trained: Trained) -> Section | None:
    """Quality against latency or size, of each evaluation that has both."""
    found: list[Block] = []
    for one, of in zip(compared, judged, strict=True):
        if of is None:
            continue
        chart = charts.quality_cost(
            one.groups,
            of.metric,
            greater_is_better=of.greater_is_better,
            roles=one.roles(trained),
            teacher=of.teacher,
        )
        found += [] if chart is None else [chart]
    return Section("price", "Quality and its price", found, READ) if found else None


def _differences(one: Compared, judged: Judged | None, *, number: int, of: str) -> Section | None:
    """Confusion of classes, and rows on which the best student and the teacher differ; None where nothing is told."""
    rows = [] if judged is None else [row for row in (judged.student, judged.teacher) if row is not None]
    found = [said for row in rows if (said := one.predictions(row)) is not None]
    blocks: list[Block] = [matrix for said in found if (matrix := differences.confusion(said)) is not None]
    lead = [f"Student: {rows[0].name}. Teacher: {rows[1].name}." if len(found) == 2 else ""]
    if any(row.n > 1 for row in rows):
        lead.append("Of a row with several seeds the predictions are the first seed's.")
    if blocks:
        lead.append("Tables of classes: rows by what is true, columns by what was said.")
    if len(found) == 2:
        student, teacher = found
        table = differences.agreement(student, teacher)
        blocks += [] if table is None else [table]
        blocks += differences.examples(student, teacher, _texts_of(one))
    if not blocks:
        return None
    return Section(f"differences-{number}", f"Where they differ{of}", blocks, " ".join(filter(None, lead)))


def _texts_of(one: Compared) -> differences.Texts:
    """The texts of an evaluation's rows; none where its corpus is not there any more."""
    parts: list[dict[str, Any]] = next((run.summary["rows_of"] for run in one.runs if run.summary.get("rows_of")), [])

    def texts(rows: Sequence[int]) -> Mapping[int, str]:
        try:
            return row_texts(
                [CorpusPart(**{**part, "label_subset": tuple(part["label_subset"])}) for part in parts], rows
            )
        except UserError:
            # The page says so at each row.
            return {}

    return texts if parts else lambda rows: {}


def _runs(trained: Trained, metric: str, folder: Path) -> Table:
    style = column(metric)
    header = ["run", "method", "teacher", "corpus", "steps", *([f"last {style.heading}"] if metric else []), "folder"]
    rows: list[list[str]] = []
    for run, training in trained:
        lineage = run.summary.get("lineage", {})
        steps = max((int(line["step"]) for line in training.history), default=0)
        last = [*training.points(curves.TASK + metric).values()][-1:]
        figure = [Cell(style.text(last[0]), last[0]) if last else Cell("")] if metric else []
        rows.append(
            [
                run.name,
                lineage.get("method", ""),
                _hashed(lineage, "teacher"),
                _hashed(lineage, "corpus"),
                Cell(f"{steps:,}", steps),
                *figure,
                Path(os.path.relpath(run.output, folder)).as_posix(),
            ]
        )
    notes = ["Behind a teacher and a corpus stands the start of its content's hash."]
    return Table("Every run, with what it was made from", header, rows, notes)


def _hashed(lineage: Mapping[str, str], key: str) -> str:
    name, digest = lineage.get(key, ""), lineage.get(f"{key}_hash", "none")
    return name if digest == "none" else f"{name} · {digest[:8]}"


def _repeat(context: _base.StageContext) -> Section | None:
    if context.resolved is None:
        return None
    return repeat(repeat_command(context.resolved), context.resolved.read_text(encoding="utf-8"), environment())
