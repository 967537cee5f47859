"""What a training will do: whether models, corpus, method and loop fit each other, and what follows of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raydistill.config.sections import ScalingConfig
from raydistill.data.input_splits import PARTS
from raydistill.methods._base import VOCABULARY_TERMS
from raydistill.models import checks
from raydistill.models.blocks import NEEDS, family_of, how_run
from raydistill.models.classes import with_classes
from raydistill.models.freezing import check_frozen_layers
from raydistill.stages import (
    _corpora,
    _loop,
    _memory,
    _models,
    _stored_outputs,
    _student,
    _teacher_cache,
    _teacher_plan,
)
from raydistill.stages._base import BEST, INITIAL, CorpusFacts, Decisions, Inputs, ModelFacts
from raydistill.stages._models import Fitted
from raydistill.stages._stored_outputs import Reading
from raydistill.stages._teacher_plan import Choice, Rows
from raydistill.training.placement import TeacherPlacement
from raydistill.training.selection import (
    TASK,
    Criterion,
    criterion_of,
    further_criteria,
    metrics_of_method,
    selection_line,
)
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.stages.train import Config

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class TrainDecisions(Decisions):
    """What a training starts from and reads."""

    student: Any
    """The student's configuration."""
    teachers: tuple[Fitted, ...]
    choice: Choice
    """Where outputs of teachers come from."""
    placement: TeacherPlacement | None
    """Where teachers lie that run beside the student, None where none does."""
    reading: Reading
    """What is read of stored outputs."""
    row_tokens: int
    """Most tokens of a row."""
    unreached_limit: str
    """What to tell of a ``max_steps`` that the epochs never reach, as far as the rows are known."""


def plan_training(config: "Config", scaling: ScalingConfig, inputs: Inputs) -> TrainDecisions:
    """Decide what a training does; raises ValueError with one line for the first thing that does not fit."""
    corpus = _corpora.read_by(config.task, config.corpus, inputs)
    if not corpus.has_train:
        raise UserError("corpus has validation rows alone; name a binarize stage that has a source to train on")
    teachers = _teachers(config, corpus, inputs)
    _check_requirements(config, len(teachers))
    _check_teachers_of_corpora(config)
    student = _student_of(config, teachers, corpus, inputs)
    _models.check_size("student", student, corpus)
    for position, teacher in enumerate(teachers):
        _models.check_size(f"teachers.{position}", teacher.config, corpus.as_encoded(teacher.encoding))
    _check_needs(config, student, teachers)
    _check_vocabularies(config, student, teachers, inputs)
    config.method.check(student, _as_taught(config, teachers))
    choice = choice_of(config, inputs)
    reading = Reading.of(config, _corpora.facts_of(config.corpus, inputs).labels, student, teachers)
    if choice.is_stored and not choice.is_own:
        _stored_outputs.check(config, reading, teachers, inputs)
    models = [student, *(one.config for one in teachers)]
    choice, placement = _teacher_plan.decided(config, scaling, models, choice)
    if not choice.is_stored or choice.is_own:
        config.method.check_running(models[1:])
    _loop.check_batches(config, scaling, corpus)
    _loop.check_width(config, models, corpus)
    criterion = criterion_of(config.training, config.task, config.method, corpus.labels)
    for one in (criterion, *further_criteria(config.training, config.task, config.method, corpus.labels).values()):
        _check_labelled(config, corpus, one)
    _loop.check_optimizer(config)
    _loop.check_precision(config, scaling)
    _loop.check_compilation(config, scaling, models[:1] if choice.is_stored else models)
    _memory.check_quantization(config, scaling, [one.config for one in teachers], is_live=not choice.is_stored)
    check_frozen_layers(config.student.freeze_layers, student.num_hidden_layers)
    _memory.check_checkpointing(config, student)
    value_bytes = _teacher_plan.VALUE_BYTES[_teacher_plan.precision_of(config.training.precision, scaling)]
    lines = [
        *_lines(config, scaling, models, choice, placement),
        *_memory.checkpointing_lines(config, student, row_tokens=corpus.max_length, value_bytes=value_bytes),
        *_loop.precision_lines(config, scaling),
        _steps_line(config, corpus),
    ]
    selection = selection_line(config.training, config.method, criterion)
    limit = "" if corpus.rows is None else config.training.unreached_limit(config.training.steps_per_epoch(corpus.rows))
    lines += [told for told in (selection, limit) if told]
    if choice.is_stored and "top_k" in reading.kinds and config.task.head == "masked_lm":
        lines.append(f"the mask of each row is the one that {choice.source} has, the same in all epochs")
    if choice.is_own:
        lines += _teacher_cache.lines(config, reading, teachers, inputs)
    return TrainDecisions(
        lines=lines,
        makes=_made(config, student, corpus),
        student=student,
        teachers=tuple(teachers),
        choice=choice,
        placement=placement,
        reading=reading,
        row_tokens=corpus.max_length,
        unreached_limit=limit,
    )


def _made(config: "Config", student: Any, corpus: CorpusFacts) -> ModelFacts:
    """The students, and the task's metrics that evaluations will have: none where validation rows have no labels."""
    logged = () if PARTS[1] in corpus.unlabelled else tuple(config.task.higher_is_better(corpus.labels))
    suffixes = ["", INITIAL, *(BEST + name for name in config.training.also_best)]
    return ModelFacts(dict.fromkeys(suffixes, student), corpus.tokenizer_hash, logged)


def choice_of(config: "Config", inputs: Inputs) -> Choice:
    """Where a training has its teachers' outputs from, as far as sizes of data decide it."""
    corpora = (config.corpus, _corpora.whole(config.corpus))
    return _teacher_plan.choose(config, Rows(*(_corpora.facts_of(one, inputs).rows for one in corpora)))


def _teachers(config: "Config", corpus: CorpusFacts, inputs: Inputs) -> list[Fitted]:
    """The teachers, each with the encoding that it reads and the classes that are read of it.

    Raises ValueError for one that does not fit, and where nobody knows a class.
    """
    keys = [f"teachers.{position}" for position in range(len(config.teachers))]
    models = [_models.model_of(key, one, inputs) for key, one in zip(keys, config.teachers, strict=True)]
    encodings = _encodings(config, corpus, [model.tokenizer_hash for model in models])
    partial, found = config.method.requirements.execution.partial_label_space, []
    for key, reference, model, encoding in zip(keys, config.teachers, models, encodings, strict=True):
        read = corpus.as_encoded(encoding)
        _models.check_model(key, reference, model, head=config.task.head, corpus=read, may_know_a_part=partial)
        labels = _models.known_by(key, reference, model.config, corpus.labels) if partial else corpus.labels
        found.append(Fitted(model, encoding, _models.names_of(reference, model.config), labels))
    if partial:
        _check_taught(config, found, corpus.labels)
    return found


def _encodings(config: "Config", corpus: CorpusFacts, digests: Sequence[str | None]) -> list[int]:
    """The encoding that each teacher reads, given the hashes of their tokenizers.

    Raises ValueError for one that reads none, or another than the method or the student that starts from it takes.
    """
    method, start = config.method, config.student
    cross_tokenizer = method.requirements.execution.cross_tokenizer
    can_be_added = cross_tokenizer and config.task.task.TEACHER_TOKENIZERS
    found = []
    for number, digest in enumerate(digests):
        key = f"teachers.{number}"
        encoding = _models.encoding_of(key, digest, corpus.hashes, can_be_added=can_be_added)
        if encoding and not cross_tokenizer:
            raise UserError(
                f"{key} has a different tokenizer from the student, and method {method.name} aligns token by token; "
                "choose a teacher with the student's tokenizer, or another method"
            )
        found.append(encoding)
    if found and found[0] and start.checkpoint is None:
        raise UserError(
            f"student.init is {start.init!r}, which starts from teacher 0, but that has another tokenizer than the "
            "corpus; name a model with the corpus's tokenizer under student.checkpoint"
        )
    return found


def _check_taught(config: "Config", teachers: Sequence[Fitted], labels: Sequence[str]) -> None:
    """Refuse teachers of parts that were never trained, and classes that none of them knows."""
    for position, reference in enumerate(config.teachers):
        if reference.head == "new":
            raise UserError(
                f"teachers.{position}.head is 'new', but method {config.method.name} learns only from its outputs; "
                "train it first"
            )
    known = {name for teacher in teachers for name in teacher.labels}
    missing = [name for name in labels if name not in known]
    if teachers and missing:
        raise UserError(
            f"no teacher covers {', '.join(map(repr, missing))} of the corpus; add a teacher for it, name "
            "its output in labels, or leave the class out with label_subset of the corpus"
        )


def _as_taught(config: "Config", teachers: Sequence[Fitted]) -> list[Any]:
    """The teachers' configurations with the classes that are read of them, where these may be a part."""
    if not config.method.requirements.execution.partial_label_space:
        return [teacher.config for teacher in teachers]
    return [with_classes(teacher.config, teacher.labels) for teacher in teachers]


def _check_requirements(config: "Config", num_teachers: int) -> None:
    method, needs = config.method, config.method.requirements
    most = needs.max_teachers
    if most == 0 and config.student.checkpoint is None:
        # It gives the student its start and is not loaded for the training.
        most = 1
    if num_teachers < needs.min_teachers or (most is not None and num_teachers > most):
        wanted = f"{needs.min_teachers}" if most == needs.min_teachers else f"{needs.min_teachers} to {most or 'any'}"
        raise UserError(f"teachers has {num_teachers}; method {method.name} takes {wanted}")
    head = config.task.head
    if needs.heads and head not in needs.heads:
        raise UserError(
            f"task is {config.task.name!r}, which needs a {head} head; method {method.name} works with "
            f"{', '.join(needs.heads)}"
        )
    if needs.tasks and config.task.name not in needs.tasks:
        raise UserError(f"task is {config.task.name!r}; method {method.name} takes {', '.join(needs.tasks)}")


def _check_teachers_of_corpora(config: "Config") -> None:
    """Refuse corpora without a teacher, and teachers of corpora that are not read, where each corpus has its own."""
    teacher_of, names = config.method.requirements.teacher_of, [reference.corpus for reference in config.corpus]
    missing, further = [name for name in names if name not in teacher_of], [*teacher_of.keys() - {*names}]
    if teacher_of and missing:
        raise UserError(f"method.teacher_of has no teacher for corpus {missing[0]!r}; add its number")
    if further:
        raise UserError(
            f"method.teacher_of names {further[0]!r}, which is not a corpus of this training; choices: "
            f"{', '.join(names)}"
        )


def _check_needs(config: "Config", student: Any, teachers: Sequence[Fitted]) -> None:
    """Refuse models of which a method cannot have what it needs, and adapters of layers that it takes parts away of."""
    if config.student.lora is not None and "units" in config.method.requirements.needs:
        raise UserError(
            f"student.lora is given, but method {config.method.name} removes heads and neurons, which adapters of the "
            "same layers cannot follow; leave lora out"
        )
    models = {"student": student, **{f"teachers.{number}": one.config for number, one in enumerate(teachers)}}
    for key, model in models.items():
        has = family_of(model, config.task.head).has(model)
        for need in config.method.requirements.needs if config.method.distils or key == "student" else ():
            if need not in has:
                raise UserError(
                    f"{key} is a {model.model_type}, of which method {config.method.name} with these options cannot "
                    f"have {need}, {NEEDS[need]}; raydistill ls models shows what each model has"
                )


def _check_vocabularies(config: "Config", student: Any, teachers: Sequence[Fitted], inputs: Inputs) -> None:
    """Raise UserError where a language model is compared with one of another size whose ids may mean other tokens.

    Where both have a tokenizer it is the corpus's, which was checked, and its ids alone are compared.
    """
    if not config.method.distils or config.task.head not in VOCABULARY_TERMS:
        return
    start = config.student.checkpoint
    known = start is None or _models.model_of("student.checkpoint", start, inputs).tokenizer_hash is not None
    for position, teacher in enumerate(teachers):
        if teacher.config.vocab_size == student.vocab_size or (known and teacher.model.tokenizer_hash is not None):
            continue
        raise UserError(
            f"vocab_size is {student.vocab_size} in the student and {teacher.config.vocab_size} in "
            f"teachers.{position}, and one of them has no tokenizer that shows what its ids mean; save it beside both"
        )


def _student_of(config: "Config", teachers: Sequence[Fitted], corpus: CorpusFacts, inputs: Inputs) -> Any:
    """The student's configuration; raises ValueError for a start that does not fit, or that there is none."""
    start, head = config.student, config.task.head
    if start.checkpoint is not None:
        model = _models.model_of("student.checkpoint", start.checkpoint, inputs)
        _models.check_model("student.checkpoint", start.checkpoint, model, head=head, corpus=corpus)
    elif teachers:
        model = teachers[0].model
    else:
        raise UserError(f"student.init is {start.init!r}, which starts from teacher 0; add one to teachers")
    _student.check_scores(start, model, inputs)
    return _student.planned(start, model.config, corpus.labels, head=head)


def _lines(
    config: "Config", scaling: ScalingConfig, models: list[Any], choice: Choice, plan: TeacherPlacement | None
) -> list[str]:
    """What is told of the models, student first, of where teachers lie and why, and of memory."""
    student, *teachers = models
    head = config.task.head
    size = checks.num_parameters(student, head=head)
    trained = _memory.num_trained(config, student)
    part = "" if trained is None else f", of which {trained:,} in adapters and beside them are trained"
    lines = [f"student {student.model_type}, {size:,} parameters{part}{how_run(student, head)}"]
    lines += _student.lines(config.student, student, teachers)
    for position, teacher in enumerate(teachers):
        what = f"teacher {position} {teacher.model_type}"
        if not config.method.distils:
            lines.append(f"{what} is used only to start the student")
        elif plan is None:
            whose = "its outputs are stored first" if choice.is_own else f"{choice.source} has its outputs"
            lines.append(f"{what} is not run: {whose}")
        else:
            size = checks.num_parameters(teacher, head=head)
            how = how_run(teacher, head)
            lines.append(f"{what}, {size:,} parameters, {plan.placements[position]}{how}")
    lines += [*choice.lines, *([f"placement: {plan.summary}"] if plan is not None else [])]
    memory = _teacher_plan.held_by(config, scaling, models, plan) / _GIB
    return [*lines, f"about {memory:.2f} GiB per worker for weights, gradients and optimizer state, plus activations"]


def _steps_line(config: "Config", corpus: CorpusFacts) -> str:
    training = config.training
    stop = f", stops after {training.stop_after_steps}" if training.stop_after_steps else ""
    if training.stop_after_epochs:
        stop = f", stops after {training.stop_after_epochs} of {training.num_epochs} epochs"
    if corpus.rows is None or corpus.tokens is None:
        limit = f", or {training.max_steps:,} steps if those are fewer" if training.max_steps else ""
        epochs = f"{training.num_epochs} epochs of batches of {training.batch_size}"
        return f"{epochs}{limit}{stop}; rows known after binarize"
    steps = training.num_steps(config.training.steps_per_epoch(corpus.rows))
    size = f"{corpus.rows:,} rows, {corpus.tokens:,} tokens an epoch"
    return f"{size}, {steps:,} steps of {training.batch_size} rows{stop}"


def _check_labelled(config: "Config", corpus: CorpusFacts, criterion: Criterion) -> None:
    """Refuse a training that reads labels where the corpus, as it is forecast, has none.

    Methods and tasks read them of all rows, the choice of a student those of validation rows.
    """
    if not corpus.unlabelled:
        return
    method, task, lacking = config.method, config.task, _corpora.without_labels(config.corpus, corpus)
    if task.task.NEEDS_STORED:
        raise UserError(f"task is {task.name!r}, which reads labels, but {lacking}")
    if method.requirements.labels:
        raise UserError(
            f"method {method.name} with these options reads labels, but {lacking}, or choose "
            "a method that reads none: vkd, uhc, dfa, cfl, muki, or kd with alpha: 1"
        )
    if criterion.key.startswith(TASK) and PARTS[1] in corpus.unlabelled:
        choices = " or ".join(metrics_of_method(method))
        raise UserError(
            f"{criterion.option} is {criterion.written!r}, which reads labels, but "
            f"{_corpora.without_labels(config.corpus, corpus, PARTS[1])}, or write {choices}"
        )
