"""Choose one run of a stage with several by an evaluation, so that later stages read its student under one name."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydistill.atomic import atomic_folder
from raydistill.config.directions import greater_is_better
from raydistill.config.sections import ScalingConfig
from raydistill.report.columns import column
from raydistill.report.grouping import grouped
from raydistill.report.tables import Statistic, markdown_table
from raydistill.stages import _base, _lineage, _models
from raydistill.stages._base import Decisions, Evaluated, Inputs, ModelFacts, Run, planned
from raydistill.user_error import UserError

_TABLE = "choice.md"


class Config(_base.StageConfig):
    """Which stage, and by which figure."""

    model: str
    """The name of an earlier stage with several runs, such as trainings from teachers of several sparsities."""
    evaluation: str
    """The name of the evaluation stage that has their figures."""
    metric: str | None = None
    """The figure of that evaluation, by default the task's own metric. Runs that differ only in their seed are compared
    by their mean, and among the best of them the best run is chosen. Of equal runs it is the first."""
    greater_is_better: bool | None = None
    """Whether the highest of these figures is the best. By default the metric decides, and a contradiction is an
    error."""


class Stage(_base.Stage):
    """Leaves the chosen run's student in ``student`` and tells which run it is; ``choice.md`` has the figures of all.

    The student is the run's own, bit for bit, so what is stored of it counts for both names.
    """

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        return {"model": self.config.model, "evaluation": self.config.evaluation}

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        config = self.config
        made = planned(ModelFacts, config.model, inputs)
        if made is None or "" not in made.configs:
            raise UserError(f"model is {config.model!r}; name an earlier training stage")
        evaluation = planned(Evaluated, config.evaluation, inputs)
        if evaluation is None:
            raise UserError(f"evaluation is {config.evaluation!r}; name an earlier evaluation stage")
        _lineage.check_one_evaluation(config.evaluation, inputs)
        metric, _ = self._comparison(evaluation)
        num_runs = inputs[config.model].num_runs
        runs = [Run(name, keys, Path(), {}) for name, keys in inputs[config.model].runs.items()]
        self._figures(evaluation.entries, runs, metric)
        of = "the only run" if num_runs == 1 else f"one of {num_runs} runs"
        return Decisions(
            [f"chooses {of} of {config.model} by {metric}"],
            ModelFacts(
                {"": made.configs[""]},
                made.tokenizer_hash,
                exported_from=made.exported_from,
                choices=tuple(run.assignment for run in runs),
            ),
        )

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        evaluation = planned(Evaluated, self.config.evaluation, context.inputs)
        assert evaluation is not None, "plan has refused what is no evaluation"
        metric, greater = self._comparison(evaluation)
        entries = context.runs[self.config.evaluation][0].summary["entries"]
        found = self._figures(entries, context.runs[self.config.model], metric)
        groups = [
            (label, [found[position] for position in members])
            for label, members in grouped([(self.config.model, run.assignment) for run, _ in found])
        ]
        sign = 1 if greater else -1
        label, members = max(groups, key=lambda one: sign * _statistic(one[1]).mean)
        run, value = max(members, key=lambda one: sign * one[1])
        context.tracker.log_metrics(context.run_key, {metric: value}, 0)
        tags = {"chosen": run.name, "chosen_by": f"{metric} of {self.config.evaluation}"}
        context.tracker.set_tags(context.run_key, tags)
        table = context.output / _TABLE
        table.write_text(_table(metric, groups, label), encoding="utf-8")
        context.tracker.log_artifact(context.run_key, str(table))
        _copy(_models.model_folder(self.config.model, run.output), context.output / "student")
        return {
            "student": str(context.output / "student"),
            "chosen": run.name,
            "assignment": dict(run.assignment),
            "value": value,
            "lineage": {**run.summary.get("lineage", {}), **tags},
        }

    def _comparison(self, evaluation: Evaluated) -> tuple[str, bool]:
        """The metric that runs are compared by, and whether a greater value is better; raises ValueError for none."""
        metric = self.config.metric or evaluation.metrics[0]
        return metric, greater_is_better(metric, evaluation.directions, stated=self.config.greater_is_better)

    def _figures(self, entries: Sequence[_lineage.Entry], runs: Sequence[Run], metric: str) -> list[tuple[Run, float]]:
        """Every run and its figure; raises ValueError for a run that an evaluation with these entries does not have."""
        found = []
        for run in runs:
            entry = _lineage.student_entry(entries, run, self.config.model)
            value = None if entry is None else entry["figures"].get(metric)
            if value is None:
                raise UserError(
                    f"evaluation is {self.config.evaluation!r}, which has no {metric} of {run.name}; "
                    f"add {self.config.model} to its models"
                )
            found.append((run, float(value)))
        return found


def _table(metric: str, groups: list[tuple[str, list[tuple[Run, float]]]], chosen: str) -> str:
    style = column(metric)
    rows = []
    for label, members in groups:
        figure = _statistic(members)
        spread = "" if figure.spread is None else f" ± {style.text(figure.spread)}"
        rows.append([label, style.text(figure.mean) + spread, "chosen" if label == chosen else ""])
    return markdown_table(["model", style.heading, ""], rows)


def _statistic(members: list[tuple[Run, float]]) -> Statistic:
    return Statistic.of([value for _, value in members])


def _copy(source: Path, target: Path) -> None:
    """A folder again under another name, in one rename; its files are links where the file system has them."""
    with atomic_folder(target) as made:
        shutil.copytree(source, made, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
