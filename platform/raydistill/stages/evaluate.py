"""Compare models on the held-out part of a corpus, on the same masked tokens."""

from collections.abc import Mapping
from typing import Annotated, Any

import ray
from pydantic import Field

from raydistill.config.named import TaskField, parser
from raydistill.config.sections import ModelRef, ScalingConfig
from raydistill.data.binarize import HELD_OUT
from raydistill.evaluation import evaluate_masked_lm
from raydistill.report import comparison_markdown
from raydistill.stages import _base, _checkpoints, _corpora


class Config(_base.StageConfig):
    """Which models, on which corpus."""

    corpus: str
    """Name of an earlier binarize stage, or its folder."""
    models: Annotated[dict[str, ModelRef], Field(min_length=1)]
    """Checkpoints by the name they get in the table, such as ``teacher``, ``student``."""
    task: TaskField = parser("raydistill.tasks")("mlm")
    """What the models are asked, the name of a task and its options."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Most held-out rows that are read, None for all."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of one forward pass."""


class Stage(_base.Stage):
    """Held-out loss, perplexity and accuracy of each model."""

    config_type = Config
    config: Config

    def references(self) -> dict[str, str]:
        models = {f"models.{name}": model.checkpoint or "" for name, model in self.config.models.items()}
        return {"corpus": self.config.corpus, **models}

    def checkpoints(self) -> list[ModelRef]:
        return list(self.config.models.values())

    def check(self, scaling: ScalingConfig, earlier: Mapping[str, _base.Forecast]) -> _base.Forecast:
        corpus = _corpora.forecast(self.config.corpus, earlier)
        for name, reference in self.config.models.items():
            model, _ = _checkpoints.model_config(reference, earlier)
            if model.vocab_size != corpus.vocab_size:
                raise ValueError(
                    f"models.{name} has {model.vocab_size} token ids, corpus {self.config.corpus!r} "
                    f"{corpus.vocab_size}; binarize with that model's tokenizer"
                )
        return _base.Forecast(lines=[f"evaluates {', '.join(self.config.models)} on held-out rows"])

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        folders = {
            name: str(_checkpoints.resolve(reference, context.outputs))
            for name, reference in self.config.models.items()
        }
        threads = context.scaling.num_workers * context.scaling.cpus_per_worker
        task = ray.remote(num_cpus=threads)(evaluate_masked_lm)
        figures = ray.get(
            task.remote(
                folders,
                _corpora.folder(self.config.corpus, context.outputs, HELD_OUT),
                task=self.config.task.dump(),
                seed=context.seed,
                max_rows=self.config.max_rows,
                batch_size=self.config.batch_size,
            )
        )
        for name, values in figures.items():
            context.tracker.log_metrics(context.run_key, {f"{name}/{key}": value for key, value in values.items()}, 0)
        table = context.output / "comparison.md"
        table.write_text(comparison_markdown(figures), encoding="utf-8")
        context.tracker.log_artifact(context.run_key, str(table))
        references = {name: reference.checkpoint or "" for name, reference in self.config.models.items()}
        return {"models": figures, "references": references}
