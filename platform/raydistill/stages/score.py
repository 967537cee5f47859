"""Score a model's attention heads and neurons over a corpus: how much its loss, and a student's, depend on each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raydistill import cluster
from raydistill.config.named import TaskSpec
from raydistill.config.sections import CorpusField, ModelRef, ScalingConfig
from raydistill.data.input_splits import TRAIN, VALIDATION
from raydistill.data.mixture import CorpusPart, open_mixture
from raydistill.data.unit_scores import COMBINED, ScoreFacts, write_scores
from raydistill.data.unit_scoring import ScoredModel, ScoringProgress, ScoringRun, score_units
from raydistill.models.importance import check_lam, interpolated
from raydistill.models.load import CLASSIFIERS
from raydistill.models.unit_masks import check_units
from raydistill.stages import _base, _corpora, _models
from raydistill.stages._base import CorpusFacts, Decisions, Inputs, ScoresFacts
from raydistill.stages._models import Fitted
from raydistill.user_error import UserError, placed

_HEADS = (*CLASSIFIERS, "question_answering")
"""Heads whose loss with labels, and whose logits, scores are made of."""
_LAM = 0.5


class Config(_base.StageConfig):
    """Whose heads and neurons, by which losses, on which rows."""

    corpus: CorpusField
    """The name of an earlier binarize stage or its folder, or a list of them; weights are ignored here."""
    task: TaskSpec = TaskSpec.parse("classification")
    """What an example means: the name of a task and its options."""
    model: ModelRef
    """The model that is scored: a BERT, RoBERTa or DistilBERT that is not pruned and has no layer plan."""
    student: ModelRef | None = None
    """A trial student that was distilled from it. With one, scores are ``lam * expressiveness + (1 - lam) *
    friendliness``: how much the model's own loss, and how much the student's distillation loss, depends on a head or
    neuron. Without one, they are the expressiveness alone."""
    lam: float | None = None
    """The fraction of expressiveness, from 0 to 1; by default 0.5 with a student."""
    temperature: Annotated[float, Field(ge=1e-3, le=1e4)] = 2.0
    """The temperature of the student's distillation loss."""
    part: Literal["validation", "train"] = "validation"
    """Which rows score: the ``validation`` rows, as published, or the ``train`` rows."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """The maximum number of rows to read, a sample that ``seed`` draws; None reads all."""
    score_batch_size: Annotated[int, Field(ge=1)] | None = None
    """What the published code calls the evaluation's batch size, on which its scores depend: each summand is the mean
    gradient of this many rows, in the corpus's order. None: each summand is the gradient of a single row, whatever the
    batches."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """The number of rows per forward and backward pass. Scores do not depend on it."""

    @field_validator("lam")
    @classmethod
    def _is_share(cls, value: float | None) -> float | None:
        if value is not None:
            check_lam(value)
        return value

    @model_validator(mode="after")
    def _weighs_two(self) -> "Config":
        if self.student is None and self.lam not in (None, 1.0):
            raise UserError(f"lam is {self.lam}, but there is no student to weigh; name one, or leave lam out")
        return self

    @property
    def share(self) -> float:
        """Share of expressiveness in the scores."""
        if self.lam is not None:
            return self.lam
        return 1.0 if self.student is None else _LAM


@dataclass(frozen=True, kw_only=True)
class ScoreDecisions(Decisions):
    """Which models score."""

    model: Fitted
    student: Fitted | None


class Stage(_base.Stage):
    """Leaves the scores and what they are of in ``scores.safetensors`` and ``scores.json``; prune stages read them."""

    config_type = Config
    config: Config

    def references(self) -> dict[str, str]:
        found = {**_corpora.references(self.config.corpus), "model": self.config.model.checkpoint or ""}
        if self.config.student is not None:
            found["student"] = self.config.student.checkpoint or ""
        return found

    def identity(self, scaling: ScalingConfig) -> dict[str, Any]:
        """The configuration without what decides only how fast scores are made."""
        found = super().identity(scaling)
        del found["batch_size"]
        return {**found, "lam": self.config.share}

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> ScoreDecisions:
        config, task = self.config, self.config.task
        if task.head not in _HEADS or task.task.NEEDS_STORED:
            raise UserError(
                f"task is {task.name!r}; heads and neurons are scored by labels of classification, glue, ner or qa"
            )
        corpus = _corpora.read_by(task, _corpora.whole(config.corpus), inputs)
        if config.part == TRAIN and not corpus.has_train:
            raise UserError("part is 'train', but corpus has only a validation part; write part: validation")
        if config.part in corpus.unlabelled:
            raise UserError(f"part is {config.part!r}, whose rows have no labels; binarize with labelled: all")
        model = self._fitted("model", config.model, corpus, inputs)
        with placed(f"model is {_models.describe(config.model)!r}"):
            check_units(model.config)
        lines, student = [self._line(model.config, corpus)], None
        if config.student is not None:
            student = self._fitted("student", config.student, corpus, inputs)
            lines.append(f"scores are {config.share:g} expressiveness and {1 - config.share:g} friendliness")
        return ScoreDecisions(
            lines=lines,
            makes=ScoresFacts(_models.describe(config.model), model.config, task.head, model.model.tokenizer_hash),
            model=model,
            student=student,
        )

    def _line(self, model: Any, corpus: CorpusFacts) -> str:
        rows = corpus.validation_rows if self.config.part == VALIDATION else corpus.rows
        most = self.config.max_rows
        known = [number for number in (rows, most) if number is not None]
        size = f"{min(known):,}" if known and rows is not None else "all" if most is None else f"at most {most:,}"
        heads = model.num_hidden_layers * model.num_attention_heads
        return f"scores {heads:,} heads of {model.num_hidden_layers} blocks, and their neurons, on {size} rows"

    def _fitted(self, key: str, reference: ModelRef, corpus: CorpusFacts, inputs: Inputs) -> Fitted:
        """A model that fits the task and the corpus; raises ValueError for another."""
        if reference.head == "new":
            raise UserError(f"{key}.head is 'new', which would score with untrained weights; train it first")
        return _models.fitted(key, reference, inputs, task=self.config.task, corpus=corpus)

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        config, scaling = self.config, context.scaling
        decisions = self.plan(scaling, context.inputs)
        model, student = decisions.model, decisions.student
        corpus = self._parts(context)
        run = ScoringRun(
            model=_scored(model, context.storage),
            student=None if student is None else _scored(student, context.storage),
            corpus=tuple(corpus),
            task=config.task,
            seed=context.seed,
            max_rows=config.max_rows,
            batch_size=config.batch_size,
            score_batch_size=config.score_batch_size,
            temperature=config.temperature,
            num_threads=cluster.threads_per_worker(scaling, parallel=context.parallel),
            use_gpu=scaling.use_gpu,
        )
        model_hash = _models.content_of(model.folder)
        student_hash = None if student is None else _models.content_of(student.folder)
        corpus_hash = open_mixture(corpus).hash
        contents = [self.FORMAT, model_hash, student_hash, corpus_hash]
        progress = ScoringProgress(context.output, [*contents, run.identity()])
        sums, rows = score_units(run, progress, num_actors=scaling.num_workers, cpus=scaling.cpus_per_worker)
        context.tracker.log_metrics(context.run_key, {"score/rows": rows}, 0)
        facts = ScoreFacts(
            model=_models.describe(config.model),
            model_folder=run.model.folder,
            model_hash=model_hash,
            student=None if config.student is None else _models.describe(config.student),
            student_hash=student_hash,
            lam=config.share,
            temperature=config.temperature,
            corpus_hash=corpus_hash,
            part=config.part,
            rows=rows,
            task=config.task.name,
            score_batch_size=config.score_batch_size,
        )
        write_scores(context.output, facts, {**sums, COMBINED: interpolated(sums, lam=config.share)})
        progress.remove()
        context.tracker.set_tags(
            context.run_key,
            {
                "model": facts.model,
                "model_hash": facts.model_hash,
                "student": facts.student or "none",
                "lam": f"{facts.lam:g}",
                "corpus_hash": facts.corpus_hash,
            },
        )
        return facts.model_dump(mode="json")

    def _parts(self, context: _base.StageContext) -> list[CorpusPart]:
        """The rows that score, each once."""
        corpora = _corpora.whole(self.config.corpus)
        if self.config.part == VALIDATION:
            return _corpora.validation_parts(corpora, context.outputs)
        return _corpora.train_parts(corpora, context.outputs)


def _scored(model: Fitted, storage: Path | None) -> ScoredModel:
    return ScoredModel(model.for_workers(storage), model.names, model.encoding)
