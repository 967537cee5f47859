"""Compare models on the held-out part of a corpus, on the same rows and targets."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from pydantic import Field

from raydistill.config.matrix import run_name
from raydistill.config.named import TaskField, parser
from raydistill.config.sections import CorpusField, ModelRef, ScalingConfig
from raydistill.evaluation import Evaluation, evaluate_models
from raydistill.report.tables import Entry, Group, group, markdown
from raydistill.stages import _base, _checkpoints, _corpora, _fit

_PREDICTIONS = "predictions"


class Config(_base.StageConfig):
    """Which models, on which corpus."""

    corpus: CorpusField
    """Name of an earlier binarize stage or its folder, or a list of them; weights do not count here."""
    models: Annotated[dict[str, ModelRef], Field(min_length=1)]
    """Checkpoints by the name they get in the table, such as ``teacher``, ``student``."""
    task: TaskField = parser("raydistill.tasks")("mlm")
    """What the models are asked, the name of a task and its options."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Most held-out rows that are read, None for all."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of one forward pass."""
    latency_repeats: Annotated[int, Field(ge=0)] = 20
    """Forward passes whose median is a model's latency, of one row at a time and of full batches; 0 measures none."""


@dataclass(frozen=True)
class _Candidate:
    """One checkpoint to evaluate: a model's name, the run that made it, and where it lies."""

    model: str
    assignment: Mapping[str, Any]
    reference: str
    folder: str
    names: tuple[str, ...]
    """Names of its outputs, where its configuration does not have them."""

    @property
    def key(self) -> str:
        """Equal for candidates that need one evaluation."""
        return json.dumps([self.folder, *self.names])


class Stage(_base.Stage):
    """The task's held-out figures of each model, for every run of a stage that has several."""

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        models = {f"models.{name}": model.checkpoint or "" for name, model in self.config.models.items()}
        return {**_corpora.references(self.config.corpus), **models}

    def check(self, scaling: ScalingConfig, earlier: Mapping[str, _base.Forecast]) -> _base.Forecast:
        corpus = _fit.check_task(self.config, earlier)
        if self.config.task.module.Task.NEEDS_STORED:
            raise ValueError(
                f"task is {self.config.task.name!r}, which reads stored teacher outputs; its metrics are those of the "
                "training stage, name the task of the corpus here"
            )
        for key, name in _corpora.references(self.config.corpus).items():
            if name in earlier and earlier[name].num_runs > 1:
                raise ValueError(f"{key} is {name!r}, which has {earlier[name].num_runs} runs; name one of them")
        for name, reference in self.config.models.items():
            key = f"models.{name}"
            if reference.head == "new":
                raise ValueError(f"{key}.head is 'new', which would be evaluated untrained; train it first")
            head = self.config.task.module.Task.HEAD
            model = _fit.check_model(key, reference, head=head, corpus=corpus, earlier=earlier)
            _fit.check_size(key, model, corpus)
        lines = [f"evaluates {', '.join(self.config.models)} on held-out rows"]
        metrics = self.config.task.module.Task.greater_is_better(self.config.task.config)
        return _base.Forecast(lines=lines, compared=tuple(self.config.models), metrics=tuple(metrics))

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        candidates = list(self._candidates(context))
        threads = context.scaling.num_workers * context.scaling.cpus_per_worker
        found = self._evaluate({one.key: one for one in candidates}, context, threads)
        entries = [Entry(one.model, one.assignment, found[one.key].figures) for one in candidates]
        groups = group(entries)
        context.tracker.log_metrics(context.run_key, _tracked(groups), 0)
        notes = self._notes(threads)
        table = context.output / "comparison.md"
        table.write_text("\n".join([markdown(groups), *(f"{note}\n" for note in notes)]), encoding="utf-8")
        context.tracker.log_artifact(context.run_key, str(table))
        files = _write_predictions(context.output, [(one, found[one.key]) for one in candidates])
        for file in files:
            context.tracker.log_artifact(context.run_key, str(context.output / file), _PREDICTIONS)
        return {
            "entries": [
                {**asdict(entry), "reference": one.reference} for entry, one in zip(entries, candidates, strict=True)
            ],
            "notes": notes,
            "predictions": files,
        }

    def _notes(self, threads: int) -> list[str]:
        """What one has to know to read the latencies."""
        if not self.config.latency_repeats:
            return []
        on = f"{threads} CPU {'thread' if threads == 1 else 'threads'}"
        return [
            f"Latencies are medians of at most {self.config.latency_repeats} forward passes in float32 on {on} of one "
            f"machine: of single rows, and a row of batches of {self.config.batch_size}."
        ]

    def _candidates(self, context: _base.StageContext) -> Iterator[_Candidate]:
        """Each model as often as its stage ran."""
        for name, model in self.config.models.items():
            reference = _checkpoints.describe(model)
            stage = _base.stage_of(reference)
            if stage not in context.runs:
                yield _Candidate(name, {}, reference, str(_checkpoints.resolve(model, {})), tuple(model.labels))
            for run in context.runs.get(stage, ()):
                folder = _base.model_folder(reference, {stage: run.output})
                yield _Candidate(name, run.assignment, reference, str(folder), tuple(model.labels))

    def _evaluate(
        self, candidates: Mapping[str, _Candidate], context: _base.StageContext, threads: int
    ) -> dict[str, Evaluation]:
        """What is found of each candidate by its key, on the same rows and targets."""
        task = ray.remote(num_cpus=threads)(_evaluate_on)
        found: dict[str, Evaluation] = ray.get(
            task.remote(
                threads,
                {key: one.folder for key, one in candidates.items()},
                _corpora.held_out_parts(self.config.corpus, context.outputs),
                task=self.config.task.dump(),
                seed=context.seed,
                max_rows=self.config.max_rows,
                batch_size=self.config.batch_size,
                names={key: one.names for key, one in candidates.items()},
                latency_repeats=self.config.latency_repeats,
            )
        )
        return found


def _evaluate_on(num_threads: int, *arguments: Any, **options: Any) -> dict[str, Evaluation]:
    """``evaluate_models`` with so many threads, in a process of its own."""
    torch.set_num_threads(num_threads)
    return evaluate_models(*arguments, **options)


def _tracked(groups: Sequence[Group]) -> dict[str, float]:
    """Means, and spreads of several runs, under names that MLflow takes."""
    metrics: dict[str, float] = {}
    for row in groups:
        name = re.sub(r"[^\w.: -]", "", row.name.replace("=", ":"), flags=re.ASCII)
        for figure, statistic in row.figures.items():
            metrics[f"{name}/{figure}"] = statistic.mean
            if statistic.spread is not None:
                metrics[f"{name}/{figure}_spread"] = statistic.spread
    return metrics


def _write_predictions(folder: Path, found: Sequence[tuple[_Candidate, Evaluation]]) -> list[str]:
    """A Parquet file of each candidate whose task tells predictions; returns their names below ``folder``."""
    files: dict[str, None] = {}
    for candidate, evaluation in found:
        if evaluation.predictions is None:
            continue
        # Names of models may have any sign.
        stem = re.sub(r"[^\w.,=\[\] -]", "_", run_name(candidate.model, candidate.assignment))
        file = f"{_PREDICTIONS}/{stem}.parquet"
        if file in files:
            file = f"{_PREDICTIONS}/{stem}-{len(files)}.parquet"
        (folder / _PREDICTIONS).mkdir(exist_ok=True)
        pq.write_table(pa.table(dict(evaluation.predictions)), folder / file)
        files[file] = None
    return list(files)
