"""A page, tables and curves of what evaluations and trainings found, in files and in the tracking store."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from raydistill import discovery, names
from raydistill.config.sections import Names, ScalingConfig, Section
from raydistill.report import against, charts, curves, html, tables
from raydistill.report.chart import Charts
from raydistill.report.columns import column
from raydistill.report.contrast import Contrast
from raydistill.report.document import Block, Table
from raydistill.report.forest import forest
from raydistill.report.task_table import AVERAGE, NO_SCORES, TaskColumn, in_hundredths, note, task_entries
from raydistill.stages import _base, _report_page
from raydistill.stages._base import ComparisonFacts, Decisions, Evaluated, Input, Inputs, ModelFacts, planned
from raydistill.training.history import read_history
from raydistill.user_error import UserError

_PAGE = "report.html"
_TASK_TABLE = "task_table"
_KINDS = {
    "evaluations": ("evaluate", Evaluated),
    "comparisons": ("compare", ComparisonFacts),
    "trainings": ("training", ModelFacts),
}
"""Of each key with names of stages what these are, and what is planned of them."""


class TaskColumnConfig(Section):
    """A column of the table over tasks."""

    evaluation: str
    """The name of the earlier evaluation stage that has the task's figures."""
    metric: Annotated[Names, Field(min_length=1)] | None = None
    """The metric that is shown, between -1 and 1, or several of which the mean is, as published for some tasks; by
    default the task's own."""

    def metrics(self, choices: Iterable[str]) -> list[str]:
        """The metrics, given those of the evaluation; none where it has no score."""
        return self.metric or [metric for metric in choices if metric not in NO_SCORES][:1]


class TaskTableConfig(Section):
    """A table with a row per model and a column per task, the average first, in hundredths."""

    columns: Annotated[dict[str, TaskColumnConfig], Field(min_length=1)]
    """What stands in each column, by its heading; models of one name in several evaluations are one row."""
    average: list[str] | None = None
    """The columns that the average is taken over, by default all; with ``[]`` the table has no average."""

    @model_validator(mode="after")
    def _averages_columns(self) -> "TaskTableConfig":
        if AVERAGE in self.columns:
            raise UserError(f"columns has {AVERAGE!r}, which the table adds itself; give it another name")
        for name in self.average or []:
            if name not in self.columns:
                raise UserError(f"average has {name!r}; columns: {', '.join(self.columns)}")
        return self


class AgainstConfig(Section):
    """A figure of models against a key of their stages' matrix, as a table and a chart."""

    key: str
    """The key of the matrix, such as ``sparsity``, whose values are numbers."""
    metric: str | None = None
    """The figure, such as ``accuracy`` or ``parameters``; by default the task's own metric."""
    evaluation: str | None = None
    """The one of ``evaluations`` that has the figure; needed if there are several."""
    models: list[str] | None = None
    """Its models that are drawn as lines, by default all that have the key. Models without it are level lines."""


class Config(_base.StageConfig):
    """Which evaluations and trainings, and what to draw."""

    evaluations: Names = []
    """The names of earlier evaluation stages; each gets a table."""
    # Not written where there is none, so that hashes of stages stay what they were.
    comparisons: Names = Field(default=[], exclude_if=lambda value: not value)
    """The names of earlier compare stages; each gets a forest plot and a table."""
    task_table: TaskTableConfig | None = None
    """A table over several tasks."""
    trainings: Names = []
    """The names of earlier training stages; their losses and metrics are drawn against the step."""
    metric: str | None = None
    """The task's metric that is drawn, such as ``loss`` or ``accuracy``; by default the task's first."""
    plot_against: Annotated[
        list[AgainstConfig], BeforeValidator(lambda value: [value] if isinstance(value, dict) else value)
    ] = []
    """Figures of ``evaluations`` to draw against a key of a matrix; one or several."""
    lines: list[str] | None = None
    """Models of the evaluations, or rows such as ``student (method=finetune)``, whose metric is drawn as a level line;
    by default the models that are not among ``trainings``."""

    @model_validator(mode="after")
    def _has_inputs(self) -> "Config":
        if not self.evaluations and not self.comparisons and not self.trainings and self.task_table is None:
            raise UserError("give evaluations, comparisons, trainings or task_table")
        if self.task_table is not None and _TASK_TABLE in self.evaluations:
            raise UserError(f"evaluations has {_TASK_TABLE!r}, whose files task_table would take; rename that stage")
        return self


Tabled = tuple[Table, dict[str, str]]
"""A table and the files beside the page that have it."""


@dataclass(frozen=True)
class Drawn:
    """Charts, with a table and its files where they have one."""

    charts: Charts
    table: Table | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def blocks(self) -> list[Charts | Table]:
        """What the page has of it."""
        return [self.charts] if self.table is None else [self.charts, self.table]


class Stage(_base.Stage):
    """Writes ``report.html``, a page that needs no other file, and the table of each evaluation as Markdown and CSV."""

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        named = {f"{key}.{position}": name for key in _KINDS for position, name in enumerate(getattr(self.config, key))}
        return {**named, **{f"task_table.columns.{name}.evaluation": one.evaluation for name, one in self._columns()}}

    def _columns(self) -> Iterable[tuple[str, TaskColumnConfig]]:
        return [] if self.config.task_table is None else self.config.task_table.columns.items()

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        for key, name in self.references().items():
            kind, facts = _KINDS.get(key.partition(".")[0], _KINDS["evaluations"])
            made = inputs.get(name)
            if made is None or not isinstance(made.facts, facts):
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
        stems = names.distinct(texts, names.FILE, room=len(".md"))
        return [stems[text] for text in texts]

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        compared = [
            _report_page.Compared(name, context.runs[name], planned(Evaluated, name, context.inputs))
            for name in self.config.evaluations
        ]
        trained = [
            (run, curves.Training(name.partition("[")[0], run.assignment, read_history(run.output)))
            for name in self.config.trainings
            for run in context.runs[name]
        ]
        trainings = [training for _, training in trained]
        metric = self._metric(trainings)
        found = [_table(one.name, [entry for _, entry in one.entries()], one.notes) for one in compared]
        if self.config.task_table is not None:
            found.insert(0, self._task_table(context))
        drawn = self._against({one.name: one.groups for one in compared}, context.inputs)
        if trainings:
            found_terms = [Drawn(charts.loss_terms(trainings))]
            levels = self._levels(compared, context, metric)
            drawn += [Drawn(charts.metric(trainings, metric, levels)), *found_terms] if metric else found_terms
        page = _report_page.document(
            context,
            compared,
            trained,
            figures=[*self._gained(context), *(table for table, _ in found)],
            drawn=[block for one in drawn for block in one.blocks],
            metric=metric,
        )
        files = {_PAGE: html.page(page)}
        for _, texts in (*found, *((None, one.files) for one in drawn)):
            files |= texts
        for file, text in files.items():
            (context.output / file).write_text(text, encoding="utf-8")
            context.tracker.log_artifact(context.run_key, str(context.output / file))
        return {"report": str(context.output / _PAGE), "files": list(files)}

    def _gained(self, context: _base.StageContext) -> Iterator[Block]:
        """The forest plot and the table of each comparison."""
        for name in self.config.comparisons:
            for run in context.runs[name]:
                found = Contrast.of(run.summary["comparison"])
                yield from forest(found)
                yield Table(run.name, *found.rows(), [found.note])

    def _metric(self, trainings: Sequence[curves.Training]) -> str:
        """The metric to draw, none where trainings held out no labels."""
        logged = curves.metrics(trainings)
        if trainings and not logged:
            return ""
        return self.config.metric or next(iter(logged), "loss")

    def _levels(
        self, compared: Sequence[_report_page.Compared], context: _base.StageContext, metric: str
    ) -> list[charts.Level]:
        trained = {run.name for name in self.config.trainings for run in context.runs[name]} | {*self.config.trainings}
        levels: list[charts.Level] = []
        for one in compared:
            chosen = self.config.lines
            if chosen is None:
                chosen = [entry.model for reference, entry in one.entries() if _base.stage_of(reference) not in trained]
            for row in one.groups:
                if metric in row.figures and (row.model in chosen or row.name in chosen):
                    label = row.name if len(compared) == 1 else f"{row.name}, {one.name}"
                    levels.append(charts.Level(label, row.figures[metric]))
        return levels

    def _against(self, groups: Mapping[str, Sequence[tables.Group]], inputs: Inputs) -> list[Drawn]:
        """The chart and the table of each figure against a key of a matrix."""
        drawn = []
        for stem, one in zip(self._against_stems(inputs), self.config.plot_against, strict=True):
            rows, metric = groups[self._compared_in(one)], self._figure(one, inputs)
            found = against.Against.of(rows, key=one.key, figure=metric, models=one.models)
            keyed = {row.model for row in rows if one.key in row.assignment}
            levels = [
                charts.Level(row.name, row.figures[metric])
                for row in rows
                if row.model not in keyed and metric in row.figures
            ]
            chart, (header, cells) = charts.against(found, levels), against.rows_of(found)
            table = Table(chart.charts[0].title, header, cells)
            drawn.append(Drawn(chart, table, {f"{stem}.md": tables.markdown_table(header, cells)}))
        return drawn

    def _task_table(self, context: _base.StageContext) -> Tabled:
        assert self.config.task_table is not None
        columns = {
            name: TaskColumn(
                [entry for _, entry in _report_page.Compared("", context.runs[one.evaluation], None).entries()],
                one.metrics(_metrics(one.evaluation, context.inputs)),
            )
            for name, one in self._columns()
        }
        chosen = self.config.task_table.average
        averaged = list(columns) if chosen is None else chosen
        return _table(_TASK_TABLE, task_entries(columns, averaged), [note(columns, averaged)], style=in_hundredths)


def _metrics(evaluation: str, inputs: Inputs) -> Sequence[str]:
    """The task's metrics of an evaluation, its own first; none of what is no evaluation."""
    found = planned(Evaluated, evaluation, inputs)
    return () if found is None else found.metrics


def _planned_rows(evaluation: Evaluated, made: Input) -> list[tables.Group]:
    """The rows that the table of an evaluation will have."""
    entries = [tables.Entry.of(entry) for entry in evaluation.entries]
    keys = list(made.runs.values()) or [{}]
    return tables.group([replace(one, assignment={**own, **one.assignment}) for own in keys for one in entries])


def _table(name: str, entries: Sequence[tables.Entry], notes: Sequence[str], *, style: tables.Style = column) -> Tabled:
    """The table of entries, and the files that have it: as Markdown, and as CSV its rows and every run."""
    groups = tables.group(entries)
    header, rows = tables.rows_of(groups, style)
    files = {
        f"{name}.md": tables.markdown_table(header, rows),
        f"{name}.csv": tables.csv_groups(groups),
        f"{name}-runs.csv": tables.csv_runs(entries),
    }
    several = ["n runs differ in their seed alone; figures are their mean ± sample standard deviation."]
    told = [*tables.same_data(groups), *notes, *(several if any(row.n > 1 for row in groups) else [])]
    beside = dict(zip(files, ("Markdown", "all digits", "every run"), strict=True))
    return Table(name, header, rows, told, beside), files
