"""Score a model's attention heads and neurons over a corpus: what its own loss, and a student's, asks of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raydistill import __version__, cluster
from raydistill.config.named import TaskSpec
from raydistill.config.sections import CorpusField, ModelRef, ScalingConfig
from raydistill.data.binarize import HELD_OUT, TRAIN
from raydistill.data.mixture import CorpusPart, open_mixture
from raydistill.data.unit_progress import ScoringProgress
from raydistill.data.unit_scores import COMBINED, ScoreFacts, write_scores
from raydistill.data.unit_scoring import ScoredModel, ScoringRun, score_units
from raydistill.models.importance import check_lam, interpolated
from raydistill.models.load import CLASSIFIERS, load_config
from raydistill.models.unit_masks import check_units
from raydistill.stages import _base, _checkpoints, _classes, _corpora, _encodings, _fit

_HEADS = (*CLASSIFIERS, "question_answering")
"""Heads whose loss with labels, and whose logits, scores are made of."""
_LAM = 0.5


class Config(_base.StageConfig):
    """Whose heads and neurons, by which losses, on which rows."""

    corpus: CorpusField
    """Name of an earlier binarize stage or its folder, or a list of them; weights do not count here."""
    task: TaskSpec = TaskSpec.parse("classification")
    """What an example means: the name of a task and its options."""
    model: ModelRef
    """The model that is scored: a BERT, RoBERTa or DistilBERT that is not pruned and has no layer plan."""
    student: ModelRef | None = None
    """A trial student that was distilled from it. With one, scores are ``lam * expressiveness + (1 - lam) *
    friendliness``: how much the model's own loss, and how much the student's distillation loss, asks of a head or
    neuron. Without one they are the first alone."""
    lam: float | None = None
    """Share of expressiveness, from 0 to 1; by default 0.5 with a student."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Temperature of the student's distillation loss."""
    part: Literal["held_out", "train"] = "held_out"
    """Rows that score: the held-out ones, as published, or those to train on."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Most rows that are read, a sample that ``seed`` draws; None for all."""
    score_batch_size: Annotated[int, Field(ge=1)] | None = None
    """What the published code calls the evaluation's batch size, on which its scores depend: the mean gradient of so
    many rows in the corpus's order is one summand. None: that of each single row is, whatever the batches."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of one forward and backward pass, on which scores do not depend."""

    @field_validator("lam")
    @classmethod
    def _is_share(cls, value: float | None) -> float | None:
        if value is not None:
            check_lam(value)
        return value

    @model_validator(mode="after")
    def _weighs_two(self) -> "Config":
        if self.student is None and self.lam not in (None, 1.0):
            raise ValueError(f"lam is {self.lam}, but there is no student to weigh; name one, or leave lam out")
        return self

    @property
    def share(self) -> float:
        """Share of expressiveness in the scores."""
        if self.lam is not None:
            return self.lam
        return 1.0 if self.student is None else _LAM


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

    def check(self, scaling: ScalingConfig, earlier: Mapping[str, _base.Forecast]) -> _base.Forecast:
        config, task = self.config, self.config.task
        if task.head not in _HEADS or task.task.NEEDS_STORED:
            raise ValueError(
                f"task is {task.name!r}; heads and neurons are scored by labels of classification, glue, ner or qa"
            )
        corpus = _fit.check_task(config.model_copy(update={"corpus": _corpora.whole(config.corpus)}), earlier)
        if config.part == TRAIN and not corpus.has_train:
            raise ValueError("part is 'train', but corpus has only a held_out part; write part: held_out")
        if config.part in corpus.unlabelled:
            raise ValueError(f"part is {config.part!r}, whose rows have no labels; binarize with labelled: all")
        model = self._check_model("model", config.model, corpus, earlier)
        try:
            check_units(model)
        except ValueError as error:
            raise ValueError(f"model is {_checkpoints.describe(config.model)!r}: {error}") from None
        lines = [self._line(model, corpus)]
        digest = _encodings.known_hash("model", config.model, earlier)
        if config.student is not None:
            self._check_model("student", config.student, corpus, earlier)
            lines.append(f"scores are {config.share:g} expressiveness and {1 - config.share:g} friendliness")
        return _base.Forecast(
            lines=lines,
            scores=_base.ScoresForecast(_checkpoints.describe(config.model), model, task.head, digest),
        )

    def _line(self, model: Any, corpus: _base.CorpusForecast) -> str:
        rows = corpus.held_out_rows if self.config.part == HELD_OUT else corpus.rows
        most = self.config.max_rows
        known = [number for number in (rows, most) if number is not None]
        size = f"{min(known):,}" if known and rows is not None else "all" if most is None else f"at most {most:,}"
        heads = model.num_hidden_layers * model.num_attention_heads
        return f"scores {heads:,} heads of {model.num_hidden_layers} blocks, and their neurons, on {size} rows"

    def _check_model(
        self, key: str, reference: ModelRef, corpus: _base.CorpusForecast, earlier: Mapping[str, _base.Forecast]
    ) -> Any:
        """The configuration of a model that fits the task and the corpus; raises ValueError for another."""
        if reference.head == "new":
            raise ValueError(f"{key}.head is 'new', which would score by what untrained weights say; train it first")
        task = self.config.task
        encoding = _encodings.of_model(key, reference, corpus, earlier, can_be_added=task.task.FURTHER_TOKENIZERS)
        read = corpus.as_encoded(encoding)
        model = _fit.check_model(key, reference, head=task.head, corpus=read, earlier=earlier)
        _fit.check_size(key, model, read)
        return model

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        config, scaling = self.config, context.scaling
        folder = self._folder(config.model, context)
        student = None if config.student is None else self._folder(config.student, context)
        corpus = self._parts(context)
        run = ScoringRun(
            model=self._scored("model", folder, corpus),
            student=None if student is None else self._scored("student", student, corpus),
            corpus=tuple(corpus),
            task=config.task.dump(),
            seed=context.seed,
            max_rows=config.max_rows,
            batch_size=config.batch_size,
            score_batch_size=config.score_batch_size,
            temperature=config.temperature,
            num_threads=cluster.threads_per_worker(scaling, parallel=context.parallel),
            use_gpu=scaling.use_gpu,
        )
        model_hash = _checkpoints.content_of(folder)
        student_hash = None if student is None else _checkpoints.content_of(student)
        corpus_hash = open_mixture(corpus).hash
        contents = [__version__, model_hash, student_hash, corpus_hash]
        progress = ScoringProgress(context.output, [*contents, run.identity()])
        sums, rows = score_units(run, progress, num_actors=scaling.num_workers, cpus=scaling.cpus_per_worker)
        context.tracker.log_metrics(context.run_key, {"score/rows": rows}, 0)
        facts = ScoreFacts(
            model=_checkpoints.describe(config.model),
            model_folder=str(folder),
            model_hash=model_hash,
            student=None if config.student is None else _checkpoints.describe(config.student),
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

    def _folder(self, reference: ModelRef, context: _base.StageContext) -> Path:
        return _checkpoints.for_workers(_checkpoints.resolve(reference, context.outputs), context.storage)

    def _parts(self, context: _base.StageContext) -> list[CorpusPart]:
        """The rows that score, each once."""
        corpora = _corpora.whole(self.config.corpus)
        if self.config.part == HELD_OUT:
            return _corpora.held_out_parts(corpora, context.outputs)
        return _corpora.train_parts(corpora, context.outputs)

    def _scored(self, key: str, folder: Any, corpus: list[CorpusPart]) -> ScoredModel:
        reference = self.config.model if key == "model" else self.config.student
        assert reference is not None
        names = _classes.names_of(reference, load_config(folder))
        return ScoredModel(str(folder), names, _encodings.of_folder(key, folder, open_mixture(corpus)))
