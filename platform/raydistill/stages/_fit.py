"""Whether models, corpus, method and loop of a training fit each other, found out before it starts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raydistill.config.sections import ScalingConfig, StudentConfig
from raydistill.models import checks, layer_selection
from raydistill.models.classes import with_classes
from raydistill.models.freezing import check_frozen_layers
from raydistill.models.kept_units import kept_of
from raydistill.models.load import CLASSIFIERS, check_family
from raydistill.optim.optimizers import CLIP_PER_TENSOR
from raydistill.stages import (
    _base,
    _checkpoints,
    _choice,
    _classes,
    _corpora,
    _encodings,
    _placement,
    _plans,
    _stored,
)
from raydistill.stages._base import CorpusForecast, Forecast
from raydistill.training.placement import Plan
from raydistill.training.selection import criterion_of, selection_line

_GIB = 2**30


def student_layers(config: StudentConfig) -> list[int]:
    """Teacher blocks that a student made from layers copies."""
    if config.layers is not None:
        return list(config.layers)
    assert config.num_layers is not None
    return layer_selection.published_layers(config.num_layers)


def check_training(config: Any, scaling: ScalingConfig, earlier: Mapping[str, Forecast]) -> Forecast:
    """Forecast the student of a training stage.

    Raises ValueError with one line for the first thing that does not fit.
    """
    corpus = check_task(config, earlier)
    if not corpus.has_train:
        raise ValueError("corpus has held-out rows alone; name a binarize stage that has a source to train on")
    encodings = _encodings.of_teachers(config, corpus, earlier)
    teachers = _teachers(config, corpus, encodings, earlier)
    _check_requirements(config, teachers)
    student = _student(config, teachers, corpus, earlier)
    student = _plans.planned(config.student, student, head=config.task.head)
    _check_corpus(corpus, student, teachers, encodings)
    config.method.check(student, _classes.as_taught(config, teachers, corpus.labels))
    choice = _choice.of_forecast(config, earlier)
    if choice.is_stored and not choice.is_own:
        _stored.check(config, _corpora.forecast(config.corpus, earlier), student, teachers, earlier)
    choice, plan = _placement.decided(config, scaling, [student, *teachers], choice)
    if not choice.is_stored or choice.is_own:
        config.method.check_running(teachers)
    _check_batches(config, scaling, corpus)
    criterion = criterion_of(config.training, config.task, config.method)
    _classes.check_labelled(config, corpus, criterion)
    _check_optimizer(config)
    check_frozen_layers(config.student.freeze_layers, student.num_hidden_layers)
    lines = [*_lines(config, scaling, [student, *teachers], choice, plan), _steps_line(config.training, corpus)]
    selection = selection_line(config.training, config.method, criterion)
    return Forecast(
        lines=[*lines, *([selection] if selection else [])],
        models={"": student, _base.INITIAL: student},
        tokenizer_hash=corpus.tokenizer_hash,
        captures=choice.is_own,
    )


def check_task(config: Any, earlier: Mapping[str, Forecast]) -> CorpusForecast:
    """What is known of a stage's corpus, with the outputs that its task asks models for as labels.

    Raises ValueError when the task does not read such a corpus.
    """
    corpus = _corpora.forecast(config.corpus, earlier)
    if corpus.task not in (config.task.name, *config.task.task.ENCODINGS):
        raise ValueError(f"task is {config.task.name!r}, but the corpus is encoded for {corpus.task!r}")
    return replace(corpus, labels=config.task.outputs(corpus.labels))


def check_model(
    key: str,
    reference: Any,
    *,
    head: str,
    corpus: CorpusForecast,
    earlier: Mapping[str, Forecast],
    may_know_a_part: bool = False,
) -> Any:
    """The configuration of the model that ``reference`` under ``key`` leads to.

    Raises ValueError when it lacks the head, or has other classes than the corpus or, where it may know a part of
    them, such as the corpus lacks, or another tokenizer.
    """
    model, folder = _model(key, reference, earlier)
    check_family(model, head=head, of=key)
    _check_head(key, reference, folder, head)
    if head in CLASSIFIERS and reference.head != "new":
        _classes.check_known(key, reference, model, corpus.labels, may_know_a_part=may_know_a_part)
    _check_tokenizer(key, folder, corpus)
    return model


def _teachers(config: Any, corpus: CorpusForecast, encodings: list[int], earlier: Mapping[str, Forecast]) -> list[Any]:
    head, partial = config.task.head, _classes.know_parts(config)
    found = [
        check_model(
            f"teachers.{position}",
            reference,
            head=head,
            corpus=corpus.as_encoded(encoding),
            earlier=earlier,
            may_know_a_part=partial,
        )
        for position, (reference, encoding) in enumerate(zip(config.teachers, encodings, strict=True))
    ]
    _classes.check_taught(config, found, corpus.labels)
    return found


def _model(key: str, reference: Any, earlier: Mapping[str, Forecast]) -> tuple[Any, Path | None]:
    try:
        return _checkpoints.model_config(reference, earlier)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _check_head(key: str, reference: Any, folder: Path | None, head: str) -> None:
    """Refuse a checkpoint without the head."""
    if reference.head == "new":
        return
    missing = [] if folder is None else checks.missing_head(folder, head=head)
    if missing:
        raise ValueError(
            f"{key} has no {head} head ({missing[0]} is not in the checkpoint); "
            f"choose one that has it, or write {key}.head: new to start one"
        )


def _check_requirements(config: Any, teachers: list[Any]) -> None:
    method = config.method
    needs = method.requirements
    most = needs.max_teachers
    if most == 0 and config.student.checkpoint is None:
        # It gives the student its start and is not loaded for the training.
        most = 1
    if len(teachers) < needs.min_teachers or (most is not None and len(teachers) > most):
        wanted = f"{needs.min_teachers}" if most == needs.min_teachers else f"{needs.min_teachers} to {most or 'any'}"
        raise ValueError(f"teachers has {len(teachers)}; method {method.name} takes {wanted}")
    head = config.task.head
    if needs.heads and head not in needs.heads:
        raise ValueError(
            f"task is {config.task.name!r}, which needs a {head} head; method {method.name} works with "
            f"{', '.join(needs.heads)}"
        )
    if needs.tasks and config.task.name not in needs.tasks:
        raise ValueError(f"task is {config.task.name!r}; method {method.name} takes {', '.join(needs.tasks)}")


def _check_tokenizer(key: str, folder: Path | None, corpus: CorpusForecast) -> None:
    """The corpus's ids must mean to the model what its own tokenizer says; equal sizes do not show that."""
    if folder is not None:
        _encodings.encoding_of(key, _encodings.hash_of_folder(folder), corpus.hashes[:1], can_be_added=False)


def _student(config: Any, teachers: list[Any], corpus: CorpusForecast, earlier: Mapping[str, Forecast]) -> Any:
    start, head = config.student, config.task.head
    source = teachers[0] if teachers else None
    if start.checkpoint is not None:
        source = check_model("student.checkpoint", start.checkpoint, head=head, corpus=corpus, earlier=earlier)
    if source is None:
        raise ValueError(f"student.init is {start.init!r}, which starts from teacher 0; add one to teachers")
    if head in CLASSIFIERS:
        source = with_classes(source, corpus.labels)
    if start.init == "checkpoint":
        return source
    if kept_of(source) is not None:
        raise ValueError(
            f"student.init is {start.init!r}, but the model that it starts from is pruned; name the one before pruning "
            "as student.checkpoint, or write init: checkpoint with a pruned one"
        )
    layers = student_layers(start) if start.init == "layers" else None
    if layers is not None:
        checks.check_layers(layers, source.num_hidden_layers, key="student.layers")
    num_layers = len(layers) if layers is not None else start.num_layers or len(start.layers or [])
    return layer_selection.student_config(source, architecture=start.architecture, num_layers=num_layers, head=head)


def _check_corpus(corpus: CorpusForecast, student: Any, teachers: list[Any], encodings: list[int]) -> None:
    check_size("student", student, corpus)
    for position, (teacher, encoding) in enumerate(zip(teachers, encodings, strict=True)):
        check_size(f"teachers.{position}", teacher, corpus.as_encoded(encoding))


def check_size(key: str, model: Any, corpus: CorpusForecast) -> None:
    """Raise ValueError for a model under ``key`` with fewer token ids or positions than the corpus has."""
    if model.vocab_size < corpus.vocab_size:
        raise ValueError(
            f"{key} has {model.vocab_size} token ids, the corpus {corpus.vocab_size}; "
            "binarize with that model's tokenizer"
        )
    positions = checks.max_length(model)
    if positions < corpus.max_length:
        raise ValueError(
            f"{key} has {positions} positions, the corpus rows of up to {corpus.max_length} tokens; "
            f"binarize with encoding.max_length={positions}"
        )


def _check_batches(config: Any, scaling: ScalingConfig, corpus: CorpusForecast) -> None:
    """Raise ValueError for batches that cannot be divided among any number of workers that there may be."""
    for num_workers in range(scaling.fewest_workers, scaling.num_workers + 1):
        _check_division(config, num_workers, corpus)


def _check_division(config: Any, num_workers: int, corpus: CorpusForecast) -> None:
    training = config.training
    parts = num_workers * training.num_micro_batches(num_workers)
    if training.batch_size < num_workers:
        raise ValueError(
            f"training.batch_size is {training.batch_size}, fewer rows than the {num_workers} workers; raise it"
        )
    # An epoch's batches differ by at most one row; none may leave a micro-batch empty.
    smallest = training.batch_size - 1
    if corpus.rows == 0:
        raise ValueError("the corpora have no row at these weights; raise weight or few_shot")
    if corpus.rows is not None:
        smallest = corpus.rows // -(-corpus.rows // training.batch_size)
    method = config.method
    min_rows = method.requirements.min_rows
    if smallest < parts * min_rows:
        needed = "" if min_rows == 1 else f", at least {min_rows} for each with these options of {method.name}"
        raise ValueError(
            f"training.micro_batch_size is {training.micro_batch_size}: with {num_workers} workers an optimizer step "
            f"has {parts} micro-batches, and some steps only {smallest} rows{needed}; raise it, or lower "
            "scaling.num_workers"
        )


def _lines(
    config: Any, scaling: ScalingConfig, models: list[Any], choice: _choice.Choice, plan: Plan | None
) -> list[str]:
    """What is told of the models, student first, of where teachers lie and why, and of memory."""
    student, *teachers = models
    head = config.task.head
    lines = [f"student {student.model_type}, {checks.num_parameters(student, head=head):,} parameters"]
    lines += [*_layer_lines(config.student, teachers), *_plans.plan_lines(student)]
    for position, teacher in enumerate(teachers):
        what = f"teacher {position} {teacher.model_type}"
        if not config.method.distils:
            lines.append(f"{what} gives the student its start alone")
        elif plan is None:
            whose = "its outputs are stored first" if choice.is_own else f"{choice.source} has its outputs"
            lines.append(f"{what} is not run: {whose}")
        else:
            size = checks.num_parameters(teacher, head=head)
            lines.append(f"{what}, {size:,} parameters, {plan.placements[position]}")
    lines += [*choice.lines, *([f"placement: {plan.summary}"] if plan is not None else [])]
    memory = _placement.held_by(config, scaling, models, plan) / _GIB
    return [*lines, f"about {memory:.2f} GiB of weights, gradients and moments a worker, activations besides"]


def _layer_lines(config: StudentConfig, teachers: list[Any]) -> list[str]:
    """A warning where the published list of layers is not spread over the teacher, which nobody would guess."""
    if config.init != "layers" or config.layers is not None:
        return []
    if not teachers or config.checkpoint is not None:
        return []
    layers, depth = student_layers(config), teachers[0].num_hidden_layers
    # A spread of n blocks reaches into the last of n equal parts.
    if (layers[-1] + 1) * len(layers) > depth * (len(layers) - 1):
        return []
    named = ", ".join(map(str, layers))
    return [f"student copies the published teacher blocks {named} of {depth}, not spread over them; see student.layers"]


def _check_optimizer(config: Any) -> None:
    """An optimizer that clips each tensor by itself must see whole ones, which sharding cuts or lays end to end."""
    name, stage = config.optimizer.name, config.training.zero_stage
    if name in CLIP_PER_TENSOR and stage != 0:
        raise ValueError(
            f"optimizer.name is {name!r}, which clips the gradient of each whole tensor, but training.zero_stage is "
            f"{stage}; set zero_stage to 0, or choose adamw or adamw_hf4"
        )


def _steps_line(training: Any, corpus: CorpusForecast) -> str:
    stop = f", stops after {training.stop_after_steps}" if training.stop_after_steps else ""
    if training.stop_after_epochs:
        stop = f", stops after {training.stop_after_epochs} of {training.num_epochs} epochs"
    if corpus.rows is None or corpus.tokens is None:
        limit = f", at most {training.max_steps} steps" if training.max_steps else ""
        epochs = f"{training.num_epochs} epochs of batches of {training.batch_size}"
        return f"{epochs}{limit}{stop}; rows known after binarize"
    steps = -(-corpus.rows // training.batch_size) * training.num_epochs
    steps = min(steps, training.max_steps or steps)
    size = f"{corpus.rows:,} rows, {corpus.tokens:,} tokens an epoch"
    return f"{size}, {steps:,} steps of {training.batch_size} rows{stop}"
