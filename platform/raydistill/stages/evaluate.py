"""Compare models on the held-out part of a corpus, on the same masked tokens."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import ray
from pydantic import Field

from raydistill.config.named import TaskField, parser
from raydistill.config.sections import CorpusField, ModelRef, ScalingConfig
from raydistill.evaluation import evaluate_models
from raydistill.report.tables import Entry, Group, group, markdown
from raydistill.stages import _base, _checkpoints, _corpora


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


@dataclass(frozen=True)
class _Candidate:
    """One checkpoint to evaluate: a model's name, the run that made it, and where it lies."""

    model: str
    assignment: Mapping[str, Any]
    reference: str
    folder: str


class Stage(_base.Stage):
    """The task's held-out figures of each model, for every run of a stage that has several."""

    config_type = Config
    config: Config
    aggregates = True

    def references(self) -> dict[str, str]:
        models = {f"models.{name}": model.checkpoint or "" for name, model in self.config.models.items()}
        return {**_corpora.references(self.config.corpus), **models}

    def check(self, scaling: ScalingConfig, earlier: Mapping[str, _base.Forecast]) -> _base.Forecast:
        corpus = _corpora.forecast(self.config.corpus, earlier)
        for key, name in _corpora.references(self.config.corpus).items():
            if name in earlier and earlier[name].num_runs > 1:
                raise ValueError(f"{key} is {name!r}, which has {earlier[name].num_runs} runs; name one of them")
        for name, reference in self.config.models.items():
            model, _ = _checkpoints.model_config(reference, earlier)
            if model.vocab_size != corpus.vocab_size:
                raise ValueError(
                    f"models.{name} has {model.vocab_size} token ids, the corpus {corpus.vocab_size}; "
                    f"binarize with that model's tokenizer"
                )
        lines = [f"evaluates {', '.join(self.config.models)} on held-out rows"]
        metrics = self.config.task.module.Task.greater_is_better(self.config.task.config)
        return _base.Forecast(lines=lines, compared=tuple(self.config.models), metrics=tuple(metrics))

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        candidates = list(self._candidates(context))
        figures = self._figures(sorted({candidate.folder for candidate in candidates}), context)
        entries = [Entry(one.model, one.assignment, figures[one.folder]) for one in candidates]
        groups = group(entries)
        context.tracker.log_metrics(context.run_key, _tracked(groups), 0)
        table = context.output / "comparison.md"
        table.write_text(markdown(groups), encoding="utf-8")
        context.tracker.log_artifact(context.run_key, str(table))
        return {
            "entries": [
                {**asdict(entry), "reference": one.reference} for entry, one in zip(entries, candidates, strict=True)
            ]
        }

    def _candidates(self, context: _base.StageContext) -> Iterator[_Candidate]:
        """Each model as often as its stage ran."""
        for name, model in self.config.models.items():
            reference = _checkpoints.describe(model)
            stage = _base.stage_of(reference)
            if stage not in context.runs:
                yield _Candidate(name, {}, reference, str(_checkpoints.resolve(model, {})))
            for run in context.runs.get(stage, ()):
                folder = _base.model_folder(reference, {stage: run.output})
                yield _Candidate(name, run.assignment, reference, str(folder))

    def _figures(self, folders: Sequence[str], context: _base.StageContext) -> dict[str, dict[str, float]]:
        """Figures of each checkpoint by its folder, on the same rows and targets."""
        threads = context.scaling.num_workers * context.scaling.cpus_per_worker
        task = ray.remote(num_cpus=threads)(evaluate_models)
        figures: dict[str, dict[str, float]] = ray.get(
            task.remote(
                {folder: folder for folder in folders},
                _corpora.held_out_parts(self.config.corpus, context.outputs),
                task=self.config.task.dump(),
                seed=context.seed,
                max_rows=self.config.max_rows,
                batch_size=self.config.batch_size,
            )
        )
        return figures


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
