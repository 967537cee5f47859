"""Compare students with the same student without distillation: gains with intervals, tests, and the gap closed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from raydistill.atomic import write_json
from raydistill.config.matrix import SEED
from raydistill.config.sections import Names, ScalingConfig
from raydistill.data.storages import storage_at
from raydistill.discovery import unknown_choice
from raydistill.report.contrast import Contender, Contrast
from raydistill.report.curves import spent
from raydistill.report.grouping import grouped
from raydistill.report.resampling import Scores, gains
from raydistill.report.row_values import row_values
from raydistill.report.tables import Statistic, markdown_table
from raydistill.stages import _base, _lineage
from raydistill.stages._base import ComparisonFacts, Decisions, Evaluated, Inputs, ModelFacts, Run, planned
from raydistill.training.history import read_history
from raydistill.user_error import UserError

_RESULT = "comparison.json"
_TABLE = "comparison.md"
_FINISH = {"perplexity": np.exp}
"""What makes a figure of the mean over rows, where that is not the mean itself."""


class Config(_base.StageConfig):
    """Which rows of which evaluation, and by which metric."""

    evaluation: str
    """The name of the earlier evaluation stage that has all of the models, each student with several seeds."""
    teacher: str
    """The row of its table with the model that the students learned from, such as ``teacher``."""
    alone: str
    """The row of its table with the same student, trained without distillation."""
    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """The models, or rows such as ``student (temperature=2)``, that are compared with ``alone``; by default all that
    have several seeds."""
    metric: str | None = None
    """A metric that is a mean over rows, such as ``accuracy`` or ``loss``; by default the task's first of these."""
    trainings: Names = []
    """The names of earlier training stages. The steps, tokens and seconds of their students are shown."""
    num_resamples: Annotated[int, Field(ge=1000, le=1_000_000)] = 10_000
    """The number of resamples of seeds and rows."""


class Stage(_base.Stage):
    """Leaves ``comparison.md`` and ``comparison.json``, which a report draws as a forest plot."""

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        trainings = {f"trainings.{number}": name for number, name in enumerate(self.config.trainings)}
        return {"evaluation": self.config.evaluation, **trainings}

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        config = self.config
        evaluation = planned(Evaluated, config.evaluation, inputs)
        if evaluation is None:
            raise UserError(f"evaluation is {config.evaluation!r}; name an earlier evaluation stage")
        _lineage.check_one_evaluation(config.evaluation, inputs)
        for number, name in enumerate(config.trainings):
            made = planned(ModelFacts, name, inputs)
            if made is None or made.metrics is None:
                raise UserError(f"trainings.{number} is {name!r}; name an earlier training stage")
        metric, names = self._metric(evaluation), [*self._rows(evaluation.entries)]
        methods = ", ".join(names[2:])
        line = f"compares {methods} with {config.alone} and {config.teacher} by {metric}"
        return Decisions([line], ComparisonFacts(metric, tuple(names)))

    def _metric(self, evaluation: Evaluated) -> str:
        """The metric; raises ValueError for one that no row has a value of."""
        if not evaluation.of_rows:
            raise UserError(
                f"evaluation is {self.config.evaluation!r}, whose metrics, {', '.join(evaluation.metrics)}, are "
                "not means over rows; compare models of another task"
            )
        metric = self.config.metric or evaluation.of_rows[0]
        if metric not in evaluation.of_rows:
            raise UserError(unknown_choice("metric", metric, list(evaluation.of_rows)))
        return metric

    def _rows(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
        """Positions of the entries of each compared row by its name: teacher, alone, then methods.

        Raises ValueError for a row that there is not, and for a student that has a single seed.
        """
        found = dict(grouped([(entry["model"], entry["assignment"]) for entry in entries]))
        teacher, alone = self.config.teacher, self.config.alone
        for key, name in (("teacher", teacher), ("alone", alone)):
            if name not in found:
                raise UserError(unknown_choice(key, name, list(found)))
        if teacher == alone:
            raise UserError(f"alone is {alone!r}, and so is teacher; name the student without distillation")
        others = {name: entries[at[0]]["model"] for name, at in found.items() if name not in (teacher, alone)}
        if self.config.methods is None:
            methods = [name for name in others if len(found[name]) > 1]
        else:
            methods = _named(self.config.methods, others)
        for name in [alone, *methods]:
            _check_seeds(name, len(found[name]))
        if not methods:
            raise UserError(
                f"evaluation is {self.config.evaluation!r}, which has no model with several seeds beside {teacher} and "
                f"{alone}; give the stage of one a matrix, such as {{seed: [1, 2, 3]}}"
            )
        return {name: found[name] for name in (teacher, alone, *methods)}

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        evaluation = planned(Evaluated, self.config.evaluation, context.inputs)
        assert evaluation is not None, "plan has refused what is no evaluation"
        (run,) = context.runs[self.config.evaluation]
        metric, entries = self._metric(evaluation), run.summary["entries"]
        rows = self._rows(entries)
        scores = {name: _scores(metric, run, positions) for name, positions in rows.items()}
        found = gains(
            scores,
            teacher=self.config.teacher,
            alone=self.config.alone,
            num_resamples=self.config.num_resamples,
            seed=context.seed,
        )
        trained = self._spent(context)
        contrast = Contrast(
            metric,
            self.config.teacher,
            self.config.alone,
            [
                Contender(name, len(positions), found[name], **_costs([entries[one] for one in positions], trained))
                for name, positions in rows.items()
            ],
        )
        return self._write(contrast, context)

    def _spent(self, context: _base.StageContext) -> dict[str, dict[str, float]]:
        """Steps, tokens and seconds of each run of the trainings, by its stage and assignment."""
        return {
            _key(name, run.assignment): spent(read_history(run.output))
            for name in self.config.trainings
            for run in context.runs[name]
        }

    def _write(self, contrast: Contrast, context: _base.StageContext) -> dict[str, Any]:
        table = context.output / _TABLE
        header, rows = contrast.rows()
        table.write_text(f"{markdown_table(header, rows)}\n{contrast.note}\n", encoding="utf-8")
        write_json(context.output / _RESULT, asdict(contrast))
        for file in (table, context.output / _RESULT):
            context.tracker.log_artifact(context.run_key, str(file))
        return {"comparison": asdict(contrast)}


def _named(wanted: Sequence[str], models: Mapping[str, str]) -> list[str]:
    """The rows of a table that are named, or whose models are; ``models`` has the model of each row."""
    choices = list(dict.fromkeys([*models.values(), *models]))
    for position, name in enumerate(wanted):
        if name not in choices:
            raise UserError(unknown_choice(f"methods.{position}", name, choices))
    return [row for row, model in models.items() if row in wanted or model in wanted]


def _check_seeds(name: str, num_seeds: int) -> None:
    """Raise ValueError for a student that was trained once, of which nobody knows how much chance is in it."""
    if num_seeds < 2:
        raise UserError(
            f"{name} has one seed, which does not show how much seeds differ; "
            "give its stage a matrix of two or more, such as {seed: [1, 2, 3]}"
        )


def _scores(metric: str, run: Run, positions: Sequence[int]) -> Scores:
    """The values of the rows of an evaluation under the models at these positions of its entries."""
    entries, files = run.summary["entries"], run.summary.get("predictions", [])
    if len(files) != len(entries):
        raise UserError(
            f"evaluation is {run.name!r}, which an earlier release stored without the result of each row; remove its "
            f"folder, {run.output}, and run the job again"
        )
    found = [
        row_values(pq.read_table(storage_at(run.output / files[one]).fetch()).to_pydict(), metric) for one in positions
    ]
    values = np.stack([values for values, _ in found])
    if not np.isfinite(values).all():
        model = entries[positions[0]]["model"]
        raise UserError(f"metric is {metric!r}, which is infinite on some rows of {model}; compare another")
    seeds = tuple(entries[one]["assignment"].get(SEED, one) for one in positions)
    return Scores(seeds, values, found[0][1], _FINISH.get(metric, np.asarray))


def _costs(entries: Sequence[Mapping[str, Any]], trained: Mapping[str, Mapping[str, float]]) -> dict[str, Statistic]:
    """Means over the runs that made these models; nothing unless all are known."""
    found = [trained.get(_key(entry["reference"], entry["assignment"]), {}) for entry in entries]
    known = [name for name in found[0] if all(name in one for one in found)]
    return {name: Statistic.of([one[name] for one in found]) for name in known}


def _key(stage: str, assignment: Mapping[str, Any]) -> str:
    return json.dumps([stage, dict(assignment)], sort_keys=True)
