"""Run teachers over a corpus once and store their outputs, so that trainings need not run them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from raydistill import cluster
from raydistill.config.named import TaskSpec
from raydistill.config.sections import CorpusField, ModelRef, ScalingConfig
from raydistill.data import top_k_file
from raydistill.data.corpus import MANIFEST, Corpus
from raydistill.data.input_splits import TRAIN, VALIDATION
from raydistill.data.published.score_files import OPTION, ScoreColumn, is_of_train_set, sha256_of
from raydistill.data.sealed_table import ROW_GROUP_ROWS
from raydistill.data.storage import Folder
from raydistill.data.storages import storage_at
from raydistill.data.stored_outputs import TEACHER_ROWS
from raydistill.data.teacher_inference import Share, TeacherRun, capture
from raydistill.data.teacher_outputs import FORMAT_VERSION, Header, OutputColumn, OutputSet, OutputSpec
from raydistill.data.top_k_file import TopKFile
from raydistill.models import checks, layer_plan
from raydistill.models.blocks import how_run
from raydistill.models.dropout_scores import has_dropout
from raydistill.models.load import CLASSIFIERS
from raydistill.stages import _base, _corpora, _models
from raydistill.stages._base import CorpusFacts, Decisions, Inputs, OutputsFacts
from raydistill.stages._models import Fitted
from raydistill.stages._score_file import check_score_file
from raydistill.tasks._instructions import LOSS_SPANS
from raydistill.user_error import UserError

_CLASSIFYING = ("logits", "cls_states", "dropout_scores")
_KINDS = {"sequence_classification": _CLASSIFYING, "masked_lm": ("top_k",), "causal_lm": ("top_k",)}
"""What can be stored of teachers with each head."""
_MASKED_SHARE = 0.15
"""For the forecast of a size, where the task does not say what share of tokens it masks."""
_SPARE_BYTES = 2**30
"""Left free beside what is stored."""
_MOST_IDS = 2**31 - 1
"""Of one record batch: Arrow counts them in 32 bits."""
_logger = logging.getLogger(__name__)


class Config(_base.StageConfig):
    """Which teachers, on which corpus, and what of their outputs is kept."""

    corpus: CorpusField
    """The name of an earlier binarize stage or its folder, or a list of them; weights are ignored here."""
    task: TaskSpec = TaskSpec.parse("classification")
    """What an example means: the name of a task and its options."""
    teachers: Annotated[list[ModelRef], Field(min_length=1)]
    """The teachers; the outputs of each are stored by themselves."""
    outputs: Annotated[list[Literal["logits", "cls_states", "dropout_scores", "top_k"]], Field(min_length=1)] = [
        "logits"
    ]
    """For classifiers of sequences: ``logits``, ``cls_states`` and ``dropout_scores``. For language models: ``top_k``.
    Causal models store it at every token, or for prompts and messages at the predicted tokens. Masked models store it
    under one mask per row, which trainings that read it keep in all epochs."""
    layers: list[Annotated[int, Field(ge=0)]] = []
    """For ``cls_states``: the numbers k of the hidden states to store. Number k is the output of the first k blocks."""
    dtype: Literal["float32", "float16"] = "float32"
    """The type of the stored states."""
    top_k: Annotated[int, Field(ge=1)] = 64
    """For ``top_k``: how many of the likeliest ids of a token are stored with their log-probabilities, beside the mass
    of all others. A token takes 4 bytes per id, or 6 with a vocabulary of more than 65,536 ids. Log-probabilities are
    rounded by at most 1 in 2,048."""
    temperature: Annotated[float, Field(ge=1e-3, le=1e4)] = 1.0
    """For ``top_k``: logits are divided by it first. Methods that read them need the same temperature."""
    mask_seed: int | None = None
    """For ``top_k``: the seed of the masks, one per row for all epochs; by default the stage's seed."""
    top_k_file: str | None = None
    """For ``top_k`` of causal models: a Parquet file of what others captured at this temperature, which is stored in
    place of the teacher's own outputs; see ``data/top_k_file.py``. The teacher is named but does not run."""
    dropout_passes: Annotated[int, Field(ge=2)] = 16
    """For ``dropout_scores``: the number of passes with dropout."""
    dropout: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For ``dropout_scores``: the dropout of the teachers; None keeps that of their checkpoints."""
    dropout_scores_file: str | None = None
    """For ``dropout_scores``: a ``.npy`` file of published scores that are stored in place of computed ones. It is an
    array (rows, teachers) with a row for each row of the unsplit train set, in its order, and a column for each of
    ``teachers``. The scores are compared with those of one pass. Rows of another validation source get passes."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows per forward pass."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """The precision of the teachers."""
    codec: Literal["none", "lz4", "zstd"] = "none"
    """The compression of the files. Files without compression are mapped, which makes it fast to read single rows."""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if ("cls_states" in self.outputs) != bool(self.layers):
            raise UserError(
                f"outputs is {', '.join(self.outputs)} and layers {self.layers}; cls_states and layers go together"
            )
        if len(set(self.layers)) != len(self.layers) or len(set(self.outputs)) != len(self.outputs):
            raise UserError("layers or outputs names one thing twice; name each once")
        if self.top_k_file is not None and (self.outputs != ["top_k"] or self.task.head != "causal_lm"):
            raise UserError(
                "top_k_file holds the likeliest ids of a causal model; write task: clm and outputs: [top_k]"
            )
        if self.top_k_file is not None and (len(self.teachers) > 1 or len(self.corpus) > 1):
            raise UserError("top_k_file holds one teacher's outputs for one corpus; capture each by itself")
        return self

    @property
    def kept(self) -> OutputSpec:
        """What of a teacher's outputs is stored."""
        masked = self.task.head == "masked_lm"
        return OutputSpec(tuple(self.outputs), tuple(self.layers), self.dtype, self.top_k, masked)

    def ids_file(self, vocab_size: int) -> TopKFile | None:
        """The likeliest ids that others captured, of a teacher with so many ids; None without a file of them."""
        path = self.top_k_file
        return None if path is None else TopKFile(path, self.top_k, vocab_size, (TRAIN, VALIDATION))

    def score_column(self, number: int) -> ScoreColumn | None:
        """Where a teacher's scores stand in the file, None without one."""
        path = self.dropout_scores_file
        return None if path is None else ScoreColumn(path, number, len(self.teachers))


@dataclass(frozen=True, kw_only=True)
class CaptureDecisions(Decisions):
    """Whose outputs are stored."""

    teachers: tuple[Fitted, ...]


class Stage(_base.Stage):
    """Leaves a set of outputs for each teacher and each part of each corpus."""

    config_type = Config
    config: Config

    def references(self) -> dict[str, str]:
        teachers = {f"teachers.{number}": one.checkpoint or "" for number, one in enumerate(self.config.teachers)}
        return {**_corpora.references(self.config.corpus), **teachers}

    def identity(self, scaling: ScalingConfig) -> dict[str, Any]:
        found, path = {**super().identity(scaling), "format": FORMAT_VERSION}, self.config.dropout_scores_file
        # Without such a file the identity is that of before there were any.
        ids = found.pop(top_k_file.OPTION)
        found |= {} if ids is None else {top_k_file.OPTION: sha256_of(ids)}
        return found if path is None else {**found, "scores": sha256_of(path)}

    def plan(self, scaling: ScalingConfig, inputs: Inputs) -> CaptureDecisions:
        config = self.config
        self._check_kinds()
        # A row is asked about once, whatever a training makes of it.
        corpus = _corpora.read_by(config.task, _corpora.whole(config.corpus), inputs)
        if not corpus.has_train:
            raise UserError("corpus has only a validation part; capture what trainings read, a corpus with both")
        if config.task.task.NEEDS_STORED:
            raise UserError(f"task is {config.task.name!r}, which reads what is stored; name the task of the corpus")
        teachers = []
        for number, reference in enumerate(config.teachers):
            key = f"teachers.{number}"
            teacher = _models.fitted(key, reference, inputs, task=config.task, corpus=corpus, may_know_a_part=True)
            self._check_teacher(number, teacher.config, corpus.vocab_size)
            teachers.append(teacher)
        self._check_record_batches(corpus.max_length)
        lines = [self.line(number, teacher, corpus) for number, teacher in enumerate(teachers)]
        ids = config.ids_file(teachers[0].config.vocab_size)
        if ids is not None:
            if LOSS_SPANS in corpus.columns:
                raise UserError(
                    "top_k_file holds all tokens of a row, but of this corpus only completions are stored; leave it out"
                )
            known = None not in (corpus.rows, corpus.validation_rows)
            ids.check((corpus.rows or 0) + (corpus.validation_rows or 0) if known else None)
            lines.append(f"the likeliest ids are those of {ids.path}; no teacher runs")
        return CaptureDecisions(
            lines=[*lines, *check_score_file(config, inputs)],
            makes=OutputsFacts(
                teachers=tuple(map(_models.describe, config.teachers)),
                corpora=tuple(reference.corpus for reference in config.corpus),
                kinds=tuple(config.outputs),
                layers=tuple(config.layers),
                labels=tuple(teacher.labels for teacher in teachers),
                names=tuple(teacher.names for teacher in teachers),
                temperature=config.temperature,
                task=config.task.dump(),
            ),
            teachers=tuple(teachers),
        )

    def _check_kinds(self) -> None:
        task = self.config.task
        able = _KINDS.get(task.head, ())
        wrong = [kind for kind in self.config.outputs if kind not in able]
        if wrong:
            choices = f"choices: {', '.join(able)}" if able else "run its teachers live, teacher_outputs: live"
            raise UserError(f"outputs has {wrong[0]}, which is not stored for task {task.name}; {choices}")
        if task.batch_dependent:
            raise UserError(f"task {task.name} draws masks for whole micro-batches; write task.sampling: row")

    def _check_teacher(self, number: int, teacher: Any, num_ids: int) -> None:
        key, config = f"teachers.{number}", self.config
        if config.teachers[number].head == "new":
            raise UserError(f"{key}.head is 'new', which would store the outputs of untrained weights; train it first")
        depth = layer_plan.num_steps(teacher)
        beyond = [layer for layer in config.layers if layer > depth]
        if beyond:
            raise UserError(f"layers has {beyond[0]}, but {key} has hidden states 0 to {depth}; lower it")
        if "top_k" in config.outputs and config.top_k > num_ids:
            raise UserError(f"top_k is {config.top_k}, but {key} has {num_ids} token ids; lower it")
        if "dropout_scores" not in config.outputs:
            return
        if teacher.num_labels < 2:
            raise UserError(f"outputs has dropout_scores, which need classes; {key} gives a score, leave it out")
        if config.dropout is None and not has_dropout(teacher):
            raise UserError(f"outputs has dropout_scores, but {key} has no dropout; give dropout, such as 0.1")

    def _check_record_batches(self, max_length: int) -> None:
        most = int(_MOST_IDS / (ROW_GROUP_ROWS * max_length * self._kept_share))
        if "top_k" in self.config.outputs and self.config.top_k > most:
            raise UserError(
                f"top_k is {self.config.top_k}, but of rows of up to {max_length:,} tokens at most {most:,} ids "
                "per token can be stored; lower it, or max_length of the corpus"
            )

    def line(self, number: int, teacher: Fitted, corpus: CorpusFacts) -> str:
        """What is stored of a teacher and how large it is, of a corpus with each row once."""
        model = teacher.config
        size = checks.num_parameters(model, head=self.config.task.head)
        what = f"teacher {number} {model.model_type}, {size:,} parameters, stores {', '.join(self.config.outputs)}"
        what += how_run(model, self.config.task.head)
        columns = self._columns(model, self._labels(number, model, corpus.labels))
        if corpus.rows is None or corpus.tokens is None or corpus.validation_rows is None:
            one = _row_bytes(columns, places=self._kept_share * corpus.max_length)
            return f"{what}: up to {one:,.0f} bytes a row; rows known after binarize"
        rows = corpus.rows + corpus.validation_rows
        one = _row_bytes(columns, places=self._kept_share * corpus.tokens / corpus.rows)
        # Of instructions only completions are kept, which are counted as the stage starts.
        about = "up to" if LOSS_SPANS in corpus.columns else "about"
        return f"{what}: {about} {size_text(rows * one)} for {rows:,} rows"

    @property
    def _kept_share(self) -> float:
        """Of a row's tokens: those whose likeliest ids are stored."""
        task = self.config.task
        return 1.0 if task.head == "causal_lm" else float(getattr(task.config, "mask_probability", _MASKED_SHARE))

    def _labels(self, number: int, teacher: Any, labels: Sequence[str]) -> tuple[str, ...]:
        """The classes that a teacher knows, given its configuration and the classes that the task asks for."""
        if self.config.task.head not in CLASSIFIERS:
            return tuple(labels)
        return _models.known_by(f"teachers.{number}", self.config.teachers[number], teacher, labels)

    def _columns(self, teacher: Any, labels: Sequence[str]) -> dict[str, OutputColumn]:
        return self.config.kept.columns(
            num_classes=max(1, len(labels)), hidden_size=teacher.hidden_size, vocab_size=teacher.vocab_size
        )

    def run(self, context: _base.StageContext) -> dict[str, Any]:
        scaling = context.scaling
        share = Share(scaling.num_workers, scaling.cpus_per_worker, scaling.use_gpu)
        ran = 0
        found: list[OutputSet] = []
        for number, teacher in enumerate(self.plan(scaling, context.inputs).teachers):
            run = self.teacher_run(number, teacher, context)
            self.check_room(number, run, context.output, remedy="make room, or store less of them")
            ran += capture(run, share)
            context.tracker.log_metrics(context.run_key, {TEACHER_ROWS: ran}, number)
            found += [OutputSet.open(uri) for uri in run.sets]
        lineage = {
            "teacher": ", ".join(map(_models.describe, self.config.teachers)),
            "teacher_hash": ", ".join(dict.fromkeys(one.header.teacher_hash for one in found)),
            "corpus_hash": ", ".join(dict.fromkeys(one.header.corpus_hash for one in found)),
        }
        context.tracker.set_tags(context.run_key, lineage)
        size = sum(one.num_bytes for one in found)
        return {"teacher_rows": ran, "bytes": size, "sets": [one.uri for one in found], "lineage": lineage}

    def check_room(self, number: int, run: TeacherRun, place: Path, *, remedy: str) -> None:
        """Log about how many bytes a run stores; the preflight knows only corpora that are there.

        Raises ValueError, with a remedy, where they do not fit at ``place``.
        """
        size, rows = self._missing(run)
        _logger.setLevel(logging.INFO)
        _logger.info("teacher %d: about %s for %s rows", number, size_text(size), f"{rows:,}")
        shortage = self.shortage(number, run, place)
        if shortage is not None:
            raise UserError(f"{shortage}; {remedy}")

    def shortage(self, number: int, run: TeacherRun, place: Path) -> str | None:
        """That what is missing of the sets of a run does not fit at ``place``; None where it does."""
        (size, rows), free = self._missing(run), storage_at(place).free_bytes()
        if not rows or size + _SPARE_BYTES <= free:
            return None
        what = f"outputs of teachers.{number} take about {size_text(size)}"
        return f"{what}, but the storage has {size_text(free)} free"

    def _missing(self, run: TeacherRun) -> tuple[float, int]:
        """About how many bytes, and how many rows, there are to store: those of sets that are not finished."""
        pairs = zip(run.corpora, run.sets, strict=True)
        parts = [Corpus.open(uri) for uri, target in pairs if not Folder(target).exists(MANIFEST)]
        rows = sum(len(part) for part in parts)
        places = sum(self._kept_share * self._tokens(part) for part in parts)
        return rows * _row_bytes(run.headers[0].columns, places=places / max(1, rows)), rows

    def _tokens(self, corpus: Corpus) -> int:
        """Tokens of a corpus, of instructions those of completions, unless prompts are trained on."""
        if LOSS_SPANS not in corpus.columns or self.config.task.trains_on_prompts:
            return corpus.manifest.tokens
        spans = corpus.read_columns(np.arange(len(corpus))).column(LOSS_SPANS).combine_chunks()
        return int(np.diff(spans.flatten().to_numpy().reshape(-1, 2)).sum())

    def teacher_run(self, number: int, teacher: Fitted, context: _base.StageContext) -> TeacherRun:
        """What actors are told of a teacher; the sets are those of this stage."""
        scaling, parts = context.scaling, list(self._parts(context))
        digest = _models.content_of(teacher.folder)
        return TeacherRun(
            folder=teacher.for_workers(context.storage),
            names=teacher.names,
            corpora=tuple(corpus.uri for _, corpus in parts),
            sets=tuple(str(context.output / f"teacher_{number}" / place) for place, _ in parts),
            headers=tuple(self._header(number, teacher, digest, corpus, context.seed) for _, corpus in parts),
            num_threads=cluster.threads_per_worker(scaling, parallel=context.parallel),
            use_gpu=scaling.use_gpu,
            scores=self.config.score_column(number),
            top_k_file=self.config.ids_file(teacher.config.vocab_size),
            plugins=self.config.task.plugins,
        )

    def _parts(self, context: _base.StageContext) -> Iterator[tuple[str, Corpus]]:
        """Each part of each corpus, and where its sets lie below their teacher's folder."""
        corpora = self.config.corpus
        for part, found in ((TRAIN, _corpora.train_parts), (VALIDATION, _corpora.validation_parts)):
            for number, one in enumerate(found(corpora, context.outputs)):
                yield f"corpus_{number}/{part}", Corpus.open(one.uri)

    def _header(self, number: int, teacher: Fitted, teacher_hash: str, corpus: Corpus, seed: int) -> Header:
        config = self.config
        labels = self._labels(number, teacher.config, config.task.outputs(corpus.encoding.labels))
        column = config.score_column(number)
        return Header(
            teacher=_models.describe(config.teachers[number]),
            teacher_hash=teacher_hash,
            tokenizer_hash=corpus.tokenizers[teacher.encoding].hash,
            corpus_hash=corpus.hash,
            rows=len(corpus),
            task=config.task.dump(),
            labels=labels,
            names=teacher.names,
            kinds=tuple(config.outputs),
            layers=tuple(config.layers),
            columns=self._columns(teacher.config, labels),
            codec=config.codec,
            precision=config.precision,
            options={
                "mask_seed": seed if config.mask_seed is None else config.mask_seed,
                "top_k": config.top_k,
                **({"temperature": config.temperature} if "top_k" in config.outputs else {}),
                "dropout_seed": seed,
                "dropout_passes": config.dropout_passes,
                "dropout": config.dropout,
                "batch_size": config.batch_size,
                **({} if column is None or not is_of_train_set(corpus) else {OPTION: column.identity}),
                **({} if config.top_k_file is None else {top_k_file.OPTION: sha256_of(config.top_k_file)}),
                **({"plugin": config.task.own_plugins[0].digest} if config.task.own_plugins else {}),
            },
        )


def _row_bytes(columns: Mapping[str, OutputColumn], *, places: float) -> float:
    """Bytes of a row of which so many places are kept, its id too."""
    return 8 + sum(column.num_bytes * (1 if column.per == "row" else places) for column in columns.values())


def size_text(num_bytes: float) -> str:
    """A size in MiB or GiB."""
    return f"{num_bytes / 2**20:,.1f} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:,.2f} GiB"
