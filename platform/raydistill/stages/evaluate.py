"""Compare models on the validation part of a corpus, on the same rows and targets."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pydantic import Field, model_validator

from raydistill import names
from raydistill.computing import compute_with
from raydistill.config.matrix import run_name
from raydistill.config.named import TaskSpec
from raydistill.config.sections import CorpusField, ModelRef, ScalingConfig, Section
from raydistill.data.input_splits import PARTS, VALIDATION
from raydistill.data.mixture import CorpusPart
from raydistill.data.storages import storage_at
from raydistill.evaluation import COSTS, ROUNDS, Checkpoints, Evaluation, evaluate_models
from raydistill.report.tables import Entry, Group, group, markdown
from raydistill.stages import _base, _corpora, _models
from raydistill.stages._base import CorpusFacts, Decisions, Evaluated, Input, Inputs
from raydistill.stages._models import Fitted
from raydistill.user_error import UserError

_PREDICTIONS, _PARQUET = "predictions", ".parquet"
_SPREAD = "_spread"
_OF_CLASSES = "sequence_classification"
_COMBINED = {
    "concatenated": "one softmax over the logits of all members",
    "weighted": "the members' own softmaxes, weighted by how sure each is of a row",
    "surest": "of each row the softmax of the member that is surest of it",
}


class EnsembleConfig(Section):
    """Classifiers of texts that answer together, such as the teachers of parts of the classes."""

    members: Annotated[list[ModelRef], Field(min_length=2)]
    """Checkpoints as in ``models``, each with all of the corpus's classes or a part of them; together they know all."""
    combine: Literal["concatenated", "weighted", "surest"] = "concatenated"
    """``concatenated``: one softmax over the logits of all members, the target of ``vkd``. ``weighted``: each member's
    own softmax, weighted by how sure it is. ``surest``: the softmax of the surest member alone. The last two are the
    soft and the hard target of ``muki`` with scores of a single pass."""


class Config(_base.StageConfig):
    """Which models, on which corpus."""

    corpus: CorpusField
    """The name of an earlier binarize stage or its folder, or a list of them; weights are ignored here."""
    models: Annotated[dict[str, ModelRef], Field(min_length=1)]
    """Checkpoints by the name they get in the table, such as ``teacher`` and ``student``. A classifier of texts may
    know only a part of the corpus's classes. It predicts no others, is wrong about all rows of the others, and has no
    loss."""
    ensembles: dict[str, EnsembleConfig] = {}
    """Ensembles of such checkpoints by the name they get in the same table, after the models."""
    task: TaskSpec = TaskSpec.parse("mlm")
    """What the models are asked: the name of a task and its options."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """The maximum number of validation rows to read; None reads all."""
    # Not written where it is not given, so that hashes of stages stay what they were.
    skip_rows: int = Field(default=0, ge=0, exclude_if=lambda value: value == 0)
    """How many validation rows to leave out, in the order in which ``max_rows`` takes the first ones. With the same
    seed, an evaluation with ``max_rows: 500`` and another with ``skip_rows: 500`` have no row in common, so that what
    the first one chooses is compared fairly by the second."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows per forward pass."""
    latency_repeats: Annotated[int, Field(ge=0)] = 20
    """The number of forward passes whose median is a model's latency, for one row at a time and for full batches; 0
    measures none. Several models take turns, so that what slows the machine for a while slows all of them."""

    @model_validator(mode="after")
    def _named_once(self) -> "Config":
        for name in self.ensembles:
            if name in self.models:
                raise UserError(f"ensembles has {name!r}, which models has too; give it another name")
        return self


@dataclass(frozen=True)
class _Candidate:
    """What has a row in the table: its name, the run that made it, and where its checkpoint lies, or several do."""

    model: str
    assignment: Mapping[str, Any]
    reference: str
    checkpoints: Checkpoints

    @property
    def key(self) -> str:
        """Equal for candidates that need one evaluation."""
        return json.dumps(asdict(self.checkpoints))


class Stage(_base.Stage):
    """The task's validation figures of each model, for every run of a stage that has several."""

    config_type = Config
    config: Config
    PARTS = (VALIDATION,)
    aggregates = True

    def references(self) -> dict[str, str]:
        models = {key: reference.checkpoint or "" for key, reference in self._checkpoints()}
        return {**_corpora.references(self.config.corpus), **models}

    def _checkpoints(self) -> Iterator[tuple[str, ModelRef]]:
        """Every checkpoint by its key, members of ensembles last."""
        for name, reference in self.config.models.items():
            yield f"models.{name}", reference
        for name, ensemble in self.config.ensembles.items():
            for number, reference in enumerate(ensemble.members):
                yield f"ensembles.{name}.members.{number}", reference

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> Decisions:
        corpus = _corpora.read_by(self.config.task, self.config.corpus, inputs)
        if PARTS[1] in corpus.unlabelled:
            raise UserError(
                "models are compared by their labels, but "
                f"{_corpora.without_labels(self.config.corpus, corpus, PARTS[1])}, or name a corpus of the same "
                "classes that has them"
            )
        if self.config.task.task.NEEDS_STORED:
            raise UserError(
                f"task is {self.config.task.name!r}, which reads stored teacher outputs; its metrics are those of the "
                "training stage, name the task of the corpus here"
            )
        for key, name in self.references().items():
            made = inputs.get(_base.stage_of(name))
            num_runs = 1 if made is None else made.num_runs
            if num_runs > 1 and not key.startswith("models."):
                raise UserError(f"{key} is {name!r}, which has {num_runs} runs; name one of them")
        if corpus.validation_rows is not None and self.config.skip_rows >= corpus.validation_rows:
            raise UserError(
                f"skip_rows is {self.config.skip_rows}, but the corpus has {corpus.validation_rows} validation rows; "
                "lower it, or hold out more"
            )
        known = {key: self._fitted(key, one, corpus, inputs).labels for key, one in self._checkpoints()}
        for name in self.config.ensembles:
            key = f"ensembles.{name}"
            self._check_ensemble(key, [one for of, one in known.items() if of.startswith(f"{key}.members.")], corpus)
        names = [*self.config.models, *self.config.ensembles]
        lines = [f"evaluates {', '.join(names)} on validation rows"]
        lines += [
            f"{key} knows {len(one)} of the {len(corpus.labels)} classes, and is wrong about rows of the others"
            for key, one in known.items()
            if key.startswith("models.") and len(one) < len(corpus.labels)
        ]
        return Decisions(lines, self._makes(corpus, inputs))

    def _makes(self, corpus: CorpusFacts, inputs: Inputs) -> Evaluated:
        """What the evaluation will tell of each model as often as its stage runs, and of each ensemble."""
        task, costs = self.config.task, COSTS if self.config.latency_repeats else COSTS[:2]
        directions = {**task.figures(corpus.labels), **dict.fromkeys(costs, False)}
        found: list[tuple[str, str, Mapping[str, Any]]] = []
        for name, model in self.config.models.items():
            reference = _models.describe(model)
            made = inputs.get(_base.stage_of(reference))
            runs = made.runs if made is not None else {}
            found += [(name, reference, assignment) for assignment in runs.values() or [{}]]
        for name, ensemble in self.config.ensembles.items():
            found.append((name, self._members(ensemble), {}))
        entries = (asdict(Entry(name, assignment, dict.fromkeys(directions, 0.0))) for name, _, assignment in found)
        references = (reference for _, reference, _ in found)
        metrics = tuple(task.higher_is_better(corpus.labels))
        return Evaluated(
            tuple({**entry, "reference": reference} for entry, reference in zip(entries, references, strict=True)),
            metrics,
            directions,
            of_rows=tuple(metric for metric in metrics if metric in task.task.ROW_METRICS),
        )

    def _members(self, ensemble: EnsembleConfig) -> str:
        """Stands for the members of an ensemble where a model has its reference."""
        return " + ".join(map(_models.describe, ensemble.members))

    def _fitted(self, key: str, reference: ModelRef, corpus: CorpusFacts, inputs: Inputs) -> Fitted:
        """A model that fits the corpus and the task; raises ValueError for another."""
        if reference.head == "new":
            raise UserError(f"{key}.head is 'new', which would be evaluated untrained; train it first")
        task = self.config.task
        has_parts = task.head == _OF_CLASSES
        return _models.fitted(
            key,
            reference,
            inputs,
            task=task,
            corpus=corpus,
            may_know_a_part=has_parts,
            may_be_exported=True,
        )

    def _check_ensemble(self, key: str, known: Sequence[Sequence[str]], corpus: CorpusFacts) -> None:
        """Raise ValueError for members that have no classes, or that do not know all of them together."""
        task = self.config.task
        if task.head != _OF_CLASSES:
            raise UserError(f"{key} is for classifiers of texts, but task is {task.name!r}; leave it out")
        if not corpus.labels:
            raise UserError(f"{key} is for classifiers, but the corpus has scores; leave it out")
        missing = [name for name in corpus.labels if not any(name in one for one in known)]
        if missing:
            raise UserError(f"{key} has no member that knows the class {missing[0]!r}; add one that does")

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        candidates = list(self._candidates(context))
        threads = context.scaling.num_workers * context.scaling.cpus_per_worker
        parts = _corpora.validation_parts(self.config.corpus, context.outputs)
        found = self._evaluate({one.key: one for one in candidates}, parts, context, threads)
        entries = [Entry(one.model, one.assignment, found[one.key].figures) for one in candidates]
        groups = group(entries)
        context.tracker.log_metrics(context.run_key, _tracked(groups), 0)
        notes = [*_notes_on_parts(candidates, found), *self._notes(threads)]
        table = context.output / "comparison.md"
        table.write_text(
            "\n".join([markdown(groups), *(f"{names.markdown(note)}\n" for note in notes)]), encoding="utf-8"
        )
        context.tracker.log_artifact(context.run_key, str(table))
        files = _write_predictions(context.output, [(one, found[one.key]) for one in candidates])
        for file in files:
            context.tracker.log_artifact(context.run_key, str(context.output / file), _PREDICTIONS)
        return {
            "entries": [
                {
                    **asdict(entry),
                    "reference": one.reference,
                    **({"exported": True} if found[one.key].exported else {}),
                }
                for entry, one in zip(entries, candidates, strict=True)
            ],
            "notes": notes,
            "predictions": files,
            "rows_of": [{**asdict(part), "label_subset": [*part.label_subset]} for part in parts],
        }

    def _notes(self, threads: int) -> list[str]:
        """What one has to know to read ensembles and latencies."""
        notes = [f"{name}: {_COMBINED[one.combine]}." for name, one in self.config.ensembles.items()]
        if not self.config.latency_repeats:
            return notes
        on = f"{threads} CPU {'thread' if threads == 1 else 'threads'}"
        return [
            *notes,
            f"Latencies are medians of at most {self.config.latency_repeats} forward passes in float32 on {on} of one "
            f"machine: of single rows, and a row of batches of {self.config.batch_size}, ± half the distance between "
            f"their quartiles. Several models took turns in {ROUNDS} rounds.",
        ]

    def _candidates(self, context: _base.StageContext) -> Iterator[_Candidate]:
        """Each model as often as its stage ran, then each ensemble."""
        read = partial(self._read, _corpora.read_by(self.config.task, self.config.corpus, context.inputs), context)
        for name, model in self.config.models.items():
            reference = _models.describe(model)
            stage, one = _base.stage_of(reference), {f"models.{name}": model}
            if stage not in context.runs:
                yield _Candidate(name, {}, reference, read(one, context.inputs))
            for run in context.runs.get(stage, ()):
                of_run = {**context.inputs, stage: Input(folder=run.output)}
                yield _Candidate(name, run.assignment, reference, read(one, of_run))
        for name, ensemble in self.config.ensembles.items():
            members = {f"ensembles.{name}.members.{number}": one for number, one in enumerate(ensemble.members)}
            found = replace(read(members, context.inputs), combine=ensemble.combine)
            yield _Candidate(name, {}, self._members(ensemble), found)

    def _read(
        self, corpus: CorpusFacts, context: _base.StageContext, models: Mapping[str, ModelRef], inputs: Inputs
    ) -> Checkpoints:
        """Where models lie, by their keys, and how each is read."""
        found = [self._fitted(key, one, corpus, inputs) for key, one in models.items()]
        return Checkpoints(
            tuple(one.for_workers(context.storage) for one in found),
            names=tuple(one.names for one in found),
            encodings=tuple(one.encoding for one in found),
        )

    def _evaluate(
        self,
        candidates: Mapping[str, _Candidate],
        parts: Sequence[CorpusPart],
        context: _base.StageContext,
        threads: int,
    ) -> dict[str, Evaluation]:
        """What is found of each candidate by its key, on the same rows and targets."""
        task = ray.remote(num_cpus=threads)(_evaluate_on)
        found: dict[str, Evaluation] = ray.get(
            task.remote(
                threads,
                {key: one.checkpoints for key, one in candidates.items()},
                parts,
                task=self.config.task,
                seed=context.seed,
                max_rows=self.config.max_rows,
                skip_rows=self.config.skip_rows,
                batch_size=self.config.batch_size,
                latency_repeats=self.config.latency_repeats,
            )
        )
        return found


def _evaluate_on(
    num_threads: int, models: Mapping[str, Checkpoints], *arguments: Any, **options: Any
) -> dict[str, Evaluation]:
    """``evaluate_models`` with so many threads, in a process of its own, maybe on another machine."""
    compute_with(num_threads)
    fetched = {
        key: replace(one, folders=tuple(str(storage_at(folder).fetch()) for folder in one.folders))
        for key, one in models.items()
    }
    return evaluate_models(fetched, *arguments, **options)


def _notes_on_parts(candidates: Sequence[_Candidate], found: Mapping[str, Evaluation]) -> list[str]:
    """Which models know a part of the classes alone."""
    parts = {one.model: len(found[one.key].classes) for one in candidates if found[one.key].classes}
    return [f"{name} knows {number} classes and predicts no other; all rows count." for name, number in parts.items()]


def _tracked(groups: Sequence[Group]) -> dict[str, float]:
    """Means, and spreads of several runs, under names that MLflow takes."""
    metrics: dict[str, float] = {}
    longest = max((len(f"/{figure}{_SPREAD}") for row in groups for figure in row.figures), default=0)
    titles = names.distinct([row.name for row in groups], names.METRIC, room=longest)
    for row in groups:
        for figure, statistic in row.figures.items():
            metrics[f"{titles[row.name]}/{figure}"] = statistic.mean
            if statistic.spread is not None:
                metrics[f"{titles[row.name]}/{figure}{_SPREAD}"] = statistic.spread
    return metrics


def _write_predictions(folder: Path, found: Sequence[tuple[_Candidate, Evaluation]]) -> list[str]:
    """A Parquet file of each candidate whose task tells predictions; returns their names below ``folder``."""
    told: dict[str, Mapping[str, Any]] = {}
    for candidate, evaluation in found:
        name = run_name(candidate.model, candidate.assignment)
        if evaluation.predictions is not None:
            told[name if name not in told else f"{name} {len(told)}"] = evaluation.predictions
    stems = names.distinct(told, names.FILE, room=len(_PARQUET))
    files = {f"{_PREDICTIONS}/{stems[name]}{_PARQUET}": columns for name, columns in told.items()}
    for file, columns in files.items():
        (folder / _PREDICTIONS).mkdir(exist_ok=True)
        pq.write_table(pa.table(dict(columns)), folder / file)
    return list(files)
