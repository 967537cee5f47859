"""Tables and pictures of what evaluations and trainings found, in files and in the tracking store."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from raydistill import discovery, names
from raydistill.config.sections import ScalingConfig, Section
from raydistill.report import against, curves, pictures, tables
from raydistill.report.columns import column
from raydistill.report.page import Comparison, Shown, Trained, page
from raydistill.report.task_table import AVERAGE, NO_SCORES, TaskColumn, in_hundredths, note, task_entries
from raydistill.stages import _base
from raydistill.stages._base import Decisions, Evaluated, Input, Inputs, ModelFacts, planned
from raydistill.training.history import read_history
from raydistill.user_error import UserError

_PAGE, _TERMS, _METRIC = "report.md", "loss_terms.png", "metric.png"
_TASK_TABLE = "task_table"

Names = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class TaskColumnConfig(Section):
    """A column of the table over tasks."""

    evaluation: str
    """Name of the earlier evaluation stage that has the task's figures."""
    metric: Annotated[Names, Field(min_length=1)] | None = None
    """The metric that is shown, between -1 and 1, or several of which the mean is, as published for some tasks; by
    default the task's own."""

    def metrics(self, choices: Iterable[str]) -> list[str]:
        """The metrics, given those of the evaluation; none where it has no score."""
        return self.metric or [metric for metric in choices if metric not in NO_SCORES][:1]


class TaskTableConfig(Section):
    """A table with a row a model and a column a task, the average first, in hundredths."""

    columns: Annotated[dict[str, TaskColumnConfig], Field(min_length=1)]
    """What stands in each column, by its heading; models of one name in several evaluations are one row."""
    average: list[str] | None = None
    """Columns of which the average is, by default all; with none of them, ``[]``, the table has no average."""

    @model_validator(mode="after")
    def _averages_columns(self) -> "TaskTableConfig":
        if AVERAGE in self.columns:
            raise UserError(f"columns has {AVERAGE!r}, which the table adds by itself; name it otherwise")
        for name in self.average or []:
            if name not in self.columns:
                raise UserError(f"average has {name!r}; columns: {', '.join(self.columns)}")
        return self


class AgainstConfig(Section):
    """A figure of models against a key of their stages' matrix, as a table and a picture."""

    key: str
    """The key of the matrix, such as ``sparsity``, whose values are numbers."""
    metric: str | None = None
    """The figure, such as ``accuracy`` or ``parameters``; by default the task's own metric."""
    evaluation: str | None = None
    """The one of ``evaluations`` that has it; where there are several it has to be named."""
    models: list[str] | None = None
    """Its models that are lines, by default all that have the key; models without it are level lines."""


class Config(_base.StageConfig):
    """Which evaluations and trainings, and what to draw."""

    evaluations: Names = []
    """Names of earlier evaluation stages; each gets a table."""
    task_table: TaskTableConfig | None = None
    """A table over several tasks."""
    trainings: Names = []
    """Names of earlier training stages; their losses and metrics are drawn against the step."""
    metric: str | None = None
    """The task's metric that is drawn, such as ``loss`` or ``accuracy``; by default the task's first."""
    plot_against: Annotated[
        list[AgainstConfig], BeforeValidator(lambda value: [value] if isinstance(value, dict) else value)
    ] = []
    """Figures of ``evaluations`` against a key of a matrix; one or several."""
    lines: list[str] | None = None
    """Models, or rows such as ``student (method=finetune)``, of the evaluations whose metric is a level line; by
    default the models that are not among ``trainings``."""

    @model_validator(mode="after")
    def _has_inputs(self) -> "Config":
        if not self.evaluations and not self.trainings and self.task_table is None:
            raise UserError("give evaluations, trainings or task_table")
        if self.task_table is not None and _TASK_TABLE in self.evaluations:
            raise UserError(f"evaluations has {_TASK_TABLE!r}, whose files task_table would take; rename that stage")
        return self


class Stage(_base.Stage):
    """Writes ``report.md``, a table of each evaluation as Markdown and CSV, and pictures of the trainings."""

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        named = {
            f"{key}.{position}": name
            for key in ("evaluations", "trainings")
            for position, name in enumerate(getattr(self.config, key))
        }
        return {**named, **{f"task_table.columns.{name}.evaluation": one.evaluation for name, one in self._columns()}}

    def _columns(self) -> Iterable[tuple[str, TaskColumnConfig]]:
        return [] if self.config.task_table is None else self.config.task_table.columns.items()

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        for key, name in self.references().items():
            kind = "training" if key.startswith("trainings") else "evaluate"
            made = inputs.get(name)
            if made is None or not isinstance(made.facts, Evaluated if kind == "evaluate" else ModelFacts):
                raise UserError(f"{key} is {name!r}; name an earlier {kind} stage")
        found = {name: planned(Evaluated, name, inputs) for name in self.references().values()}
        evaluations = {name: one for name, one in found.items() if one is not None}
        rows = [
            one
            for name in self.config.evaluations
            for row in _planned_rows(evaluations[name], inputs[name])
            for one in (row.model, row.name)
        ]
        for position, line in enumerate(self.config.lines or []):
            if line not in rows:
                raise UserError(discovery.unknown_choice(f"lines.{position}", line, list(dict.fromkeys(rows))))
        self._check_metric(evaluations, inputs)
        self._check_against(evaluations, inputs)
        for name, one in self._columns():
            choices = [metric for metric in evaluations[one.evaluation].metrics if metric not in NO_SCORES]
            for metric in one.metrics(choices) or [""]:
                if metric not in choices:
                    key = f"task_table.columns.{name}.metric"
                    raise UserError(f"{key} is {metric!r}; choices: {', '.join(choices) or 'none'}")
        return Decisions([f"reports on {', '.join(dict.fromkeys(self.references().values()))}"])

    def _check_metric(self, evaluations: Mapping[str, Evaluated], inputs: Inputs) -> None:
        """Raise ValueError for a metric that no evaluation has, or that no training logs where some are drawn."""
        metric = self.config.metric
        metrics = [one for name in self.config.evaluations for one in evaluations[name].metrics]
        if metric is not None and metrics and metric not in metrics:
            raise UserError(discovery.unknown_choice("metric", metric, list(dict.fromkeys(metrics))))
        logged: list[str] = []
        for position, name in enumerate(self.config.trainings):
            made = planned(ModelFacts, name, inputs)
            if made is None or made.metrics is None:
                raise UserError(f"trainings.{position} is {name!r}, which trains nothing; name a training stage")
            logged += made.metrics
        if metric is not None and logged and metric not in logged:
            choices = list(dict.fromkeys(logged))
            raise UserError(f"{discovery.unknown_choice('metric', metric, choices)}, which the trainings log")

    def _check_against(self, evaluations: Mapping[str, Evaluated], inputs: Inputs) -> None:
        """Raise ValueError for a picture of what no evaluation has, or twice the same."""
        same = [(self._compared_in(one), self._figure(one, inputs), one.key) for one in self.config.plot_against]
        for position, one in enumerate(self.config.plot_against):
            name, metric, _ = same[position]
            if name not in self.config.evaluations:
                known = ", ".join(self.config.evaluations) or "none"
                raise UserError(f"plot_against.{position}.evaluation is {one.evaluation!r}; evaluations: {known}")
            if same[position] in same[:position]:
                raise UserError(f"plot_against.{position} is {metric} against {one.key} again; leave it out")
            for model in one.models or []:
                if model not in evaluations[name].models:
                    choices = ", ".join(evaluations[name].models)
                    raise UserError(f"plot_against.{position}.models has {model!r}; models of {name}: {choices}")
            if metric not in evaluations[name].directions:
                figures = list(evaluations[name].directions)
                raise UserError(discovery.unknown_choice(f"plot_against.{position}.metric", metric, figures))
            try:
                rows = _planned_rows(evaluations[name], inputs[name])
                against.Against.of(rows, key=one.key, figure=metric, models=one.models)
            except UserError as error:
                raise UserError(str(error).replace("plot_against.", f"plot_against.{position}.")) from None

    def _compared_in(self, one: AgainstConfig) -> str:
        """The evaluation that has a figure, empty where there are several and none is named."""
        alone = self.config.evaluations[0] if len(self.config.evaluations) == 1 else ""
        return one.evaluation or alone

    def _figure(self, one: AgainstConfig, inputs: Inputs) -> str:
        """The figure against a key, empty where it is that of an evaluation which is not known."""
        return one.metric or next(iter(_metrics(self._compared_in(one), inputs)), "")

    def _against_stems(self, inputs: Inputs) -> list[str]:
        """Names of the files of each figure against a key; the whole key where others end like it."""
        starts = [f"{self._compared_in(one)}-{self._figure(one, inputs)}-against-" for one in self.config.plot_against]
        wholes = [one.key for one in self.config.plot_against]
        texts = [start + key.rpartition(".")[2] for start, key in zip(starts, wholes, strict=True)]
        texts = [
            start + key if texts.count(text) > 1 else text
            for start, key, text in zip(starts, wholes, texts, strict=True)
        ]
        stems = names.distinct(texts, names.FILE, room=len(".png"))
        return [stems[text] for text in texts]

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        entries = {name: list(_entries(context.runs[name])) for name in self.config.evaluations}
        trainings = [
            (run, curves.Training(name.partition("[")[0], run.assignment, read_history(run.output)))
            for name in self.config.trainings
            for run in context.runs[name]
        ]
        metric = self._metric([training for _, training in trainings])
        comparisons = [
            _write_tables(context.output, name, found, _notes(context.runs[name])) for name, found in entries.items()
        ]
        if self.config.task_table is not None:
            comparisons.insert(0, _write_task_table(context, self.config.task_table))
        levels, stems = self._levels(entries, context, metric), self._against_stems(context.inputs)
        shown = [
            *(
                _draw_against(
                    context.output, stem, one, self._figure(one, context.inputs), entries[self._compared_in(one)]
                )
                for stem, one in zip(stems, self.config.plot_against, strict=True)
            ),
            *_draw(context.output, [training for _, training in trainings], metric, levels),
        ]
        trained = [_trained(run, training, metric, context.output) for run, training in trainings]
        text = page(f"Report of {context.job_name}", comparisons, trained, shown=shown, metric=metric)
        (context.output / _PAGE).write_text(text, encoding="utf-8")
        files = [_PAGE, *(one.file for one in shown), *(file for one in comparisons for file in _files(one))]
        files += [f"{stem}.md" for stem in stems]
        for file in files:
            context.tracker.log_artifact(context.run_key, str(context.output / file))
        return {"report": str(context.output / _PAGE), "files": files}

    def _metric(self, trainings: Sequence[curves.Training]) -> str:
        """The metric to draw, none where trainings held out no labels."""
        logged = curves.metrics(trainings)
        if trainings and not logged:
            return ""
        return self.config.metric or next(iter(logged), "loss")

    def _levels(
        self, entries: Mapping[str, Sequence[tuple[str, tables.Entry]]], context: _base.StageContext, metric: str
    ) -> list[pictures.Level]:
        drawn = {run.name for name in self.config.trainings for run in context.runs[name]} | {*self.config.trainings}
        levels: list[pictures.Level] = []
        for name, found in entries.items():
            chosen = self.config.lines
            if chosen is None:
                chosen = [entry.model for reference, entry in found if _base.stage_of(reference) not in drawn]
            for row in tables.group([entry for _, entry in found]):
                if metric in row.figures and (row.model in chosen or row.name in chosen):
                    label = row.name if len(entries) == 1 else f"{row.name}, {name}"
                    levels.append(pictures.Level(label, row.figures[metric]))
        return levels


def _metrics(evaluation: str, inputs: Inputs) -> Sequence[str]:
    """The task's metrics of an evaluation, its own first; none of what is no evaluation."""
    found = planned(Evaluated, evaluation, inputs)
    return () if found is None else found.metrics


def _planned_rows(evaluation: Evaluated, made: Input) -> list[tables.Group]:
    """The rows that the table of an evaluation will have."""
    entries = [tables.Entry.of(entry) for entry in evaluation.entries]
    keys = list(made.runs.values()) or [{}]
    return tables.group([replace(one, assignment={**own, **one.assignment}) for own in keys for one in entries])


def _entries(runs: Sequence[_base.Run]) -> Iterator[tuple[str, tables.Entry]]:
    """References and entries of an evaluation's runs; matrix keys of the evaluation itself tell its entries apart."""
    for run in runs:
        for data in run.summary["entries"]:
            entry = tables.Entry.of(data)
            yield data["reference"], tables.Entry(entry.model, {**run.assignment, **entry.assignment}, entry.figures)


def _notes(runs: Sequence[_base.Run]) -> list[str]:
    return list(dict.fromkeys(note for run in runs for note in run.summary.get("notes", [])))


def _write_tables(
    folder: Path, name: str, found: Sequence[tuple[str, tables.Entry]], notes: Sequence[str]
) -> Comparison:
    return _write(folder, name, [entry for _, entry in found], notes=notes)


def _write_task_table(context: _base.StageContext, config: TaskTableConfig) -> Comparison:
    columns = {
        name: TaskColumn(
            [entry for _, entry in _entries(context.runs[one.evaluation])],
            one.metrics(_metrics(one.evaluation, context.inputs)),
        )
        for name, one in config.columns.items()
    }
    averaged = list(columns) if config.average is None else config.average
    entries = task_entries(columns, averaged)
    return _write(context.output, _TASK_TABLE, entries, notes=[note(columns, averaged)], style=in_hundredths)


def _write(
    folder: Path, name: str, entries: Sequence[tables.Entry], *, notes: Sequence[str], style: tables.Style = column
) -> Comparison:
    groups = tables.group(entries)
    files = {"csv_groups": f"{name}.csv", "csv_runs": f"{name}-runs.csv"}
    comparison = Comparison(name, groups, notes=notes, style=style, **files)
    texts = [tables.markdown(groups, style), tables.csv_groups(groups), tables.csv_runs(entries)]
    for file, text in zip(_files(comparison), texts, strict=True):
        (folder / file).write_text(text, encoding="utf-8")
    return comparison


def _files(comparison: Comparison) -> list[str]:
    return [f"{comparison.name}.md", comparison.csv_groups, comparison.csv_runs]


def _draw(
    folder: Path, trainings: Sequence[curves.Training], metric: str, levels: Sequence[pictures.Level]
) -> list[Shown]:
    if not trainings:
        return []
    pictures.save(pictures.loss_terms(trainings), folder / _TERMS)
    several = any(len(curve.runs) > 1 for curve in curves.curves(trainings, curves.TRAIN + "loss"))
    band = " A curve of several runs is their mean, in a band of one sample standard deviation." if several else ""
    terms = Shown(
        _TERMS, "Terms of the loss", "Each against the optimizer step; the first is their weighted sum." + band
    )
    if not metric:
        return [terms]
    pictures.save(pictures.metric(trainings, metric, levels), folder / _METRIC)
    return [
        terms,
        Shown(
            _METRIC,
            column(metric).heading.capitalize(),
            "Curves: against the optimizer step, measured during training on at most `training.eval_rows` validation "
            "rows. Level lines: figures of the tables, over all rows that the evaluation reads." + band,
        ),
    ]


def _draw_against(
    folder: Path, stem: str, one: AgainstConfig, metric: str, entries: Sequence[tuple[str, tables.Entry]]
) -> Shown:
    """Write the table and the picture of a figure against a key of a matrix."""
    groups = tables.group([entry for _, entry in entries])
    found = against.Against.of(groups, key=one.key, figure=metric, models=one.models)
    drawn = {row.model for row in groups if one.key in row.assignment}
    levels = [
        pictures.Level(row.name, row.figures[metric])
        for row in groups
        if row.model not in drawn and metric in row.figures
    ]
    table = against.markdown(found)
    (folder / f"{stem}.md").write_text(table, encoding="utf-8")
    pictures.save(pictures.against(found, levels), folder / f"{stem}.png")
    title = f"{column(metric).heading} against {found.short_key}"
    caption = f"{table}\nOver all rows that the evaluation reads. Level lines are models without {one.key}."
    return Shown(f"{stem}.png", title[:1].upper() + title[1:], caption)


def _trained(run: _base.Run, training: curves.Training, metric: str, folder: Path) -> Trained:
    lineage = run.summary.get("lineage", {})
    figures = list(training.points(curves.TASK + metric).values())
    return Trained(
        name=run.name,
        method=lineage.get("method", ""),
        teacher=lineage.get("teacher", ""),
        num_steps=max((int(line["step"]) for line in training.history), default=0),
        figure=figures[-1] if figures else None,
        folder=Path(os.path.relpath(run.output, folder)).as_posix(),
    )
