"""What the methods of knowledge integration share: teachers that know some classes each, and aligned hidden states.

Li et al. 2022, "From Mimicking to Integrating: Knowledge Integration for Pre-Trained Language Models", Findings of
EMNLP; code lancopku/MUKI @ 703fd17.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.batch import Batch, padded_rows
from raydistill.losses.integrated_targets import agreement, concatenated_target
from raydistill.losses.reduction import widen
from raydistill.losses.uncertainty import divergence_from_labels
from raydistill.methods._base import (
    STATES,
    ConfigT,
    Distiller,
    Execution,
    Requirements,
    Term,
    Terms,
    check_one_width,
    check_pad_to,
    check_positive,
    check_temperature,
    check_weight,
)
from raydistill.models.blocks import family_of
from raydistill.models.layer_plan import num_steps
from raydistill.models.offloading import weights_present
from raydistill.models.predictions import Prediction, predict
from raydistill.optim.parameter_groups import GroupRule
from raydistill.options import LATER
from raydistill.user_error import UserError

HEADS = ("sequence_classification",)
"""Heads that the methods train."""

Labels = Sequence[Sequence[str]]
"""For each teacher the names of its outputs in their order."""
Layers = tuple[int, ...]
"""Numbers k of hidden states hs[k], the outputs of k blocks."""
MatchingLayer = Callable[[int, int, int], int]
"""From a layer's distance to the last one and the depths of student and teacher to the teacher's hidden state."""

_INIT_STD = 0.02


def check_soft_labels(kd_alpha: float, temperature: float) -> None:
    """Raise ValueError for a weight or a temperature with which no classes are learned."""
    check_weight("kd_alpha", kd_alpha)
    if kd_alpha == 0:
        raise UserError("kd_alpha is 0, so no classes are learned; raise it")
    check_temperature("temperature", temperature)


def reads_outputs(*kinds: str, batch_dependent_when_live: bool = False) -> Requirements:
    """Needs of a method that reads ``kinds`` of outputs of one or more teachers, each with its own tokenizer."""
    return Requirements(
        min_teachers=1,
        max_teachers=None,
        heads=HEADS,
        stored=kinds,
        labels=False,
        execution=Execution(
            batch_dependent_when_live=batch_dependent_when_live,
            sequential_teachers=True,
            cross_tokenizer=True,
            partial_label_space=True,
        ),
    )


def refuse_regression(student_config: Any) -> None:
    """Raise ValueError for a student with a single output."""
    if student_config.num_labels == 1:
        raise UserError("the student has a single output, a score; teachers of scores have no classes to integrate")


class ClassUnion(nn.Module):
    """Which of the student's classes each teacher knows; has no state, because the models' label names decide it."""

    def __init__(self, student: Any, teachers: Sequence[Any], teacher_labels: Labels) -> None:
        """``teacher_labels`` default to those in the teachers' configurations; raises ValueError as ``union_ids``."""
        super().__init__()
        self.num_classes = int(student.config.num_labels)
        found = union_ids(teacher_labels or [_label_names(teacher) for teacher in teachers], student.config)
        self.num_teachers = len(found)
        """Number of teachers, also if none runs because their outputs are stored."""
        for number, ids in enumerate(found):
            self.register_buffer(f"teacher_{number}", torch.tensor(ids, dtype=torch.int64), persistent=False)

    @property
    def ids(self) -> tuple[Tensor, ...]:
        """For each teacher (C_t,) int64: the student's output with the same class as each of its own."""
        return tuple(self.get_buffer(f"teacher_{number}") for number in range(self.num_teachers))

    def logits(self, distiller: Distiller[Any], batch: Batch) -> list[Tensor]:
        """Logits (B, C_t) of each teacher, without gradient."""
        return [distiller.teacher_logits(batch, number=number) for number in range(self.num_teachers)]

    def concatenated(self, teacher_logits: Sequence[Tensor], *, temperature: float) -> Tensor:
        """Probabilities (B, C): one softmax over the tempered logits of all teachers, entries of a class added."""
        return concatenated_target(teacher_logits, self.ids, self.num_classes, temperature=temperature)


def union_ids(teacher_labels: Labels, student_config: Any) -> list[list[int]]:
    """For each teacher and each of its outputs the student's output of the same name.

    Raises ValueError for a name that a teacher has twice or the student lacks, and for a class that no teacher knows.
    """
    number_of = {name: number for number, name in student_config.id2label.items()}
    for position, names in enumerate(teacher_labels):
        unknown = [name for name in names if name not in number_of]
        if unknown:
            raise UserError(
                f"teachers.{position} has the class {unknown[0]!r}, the student {', '.join(number_of)}; "
                f"name the teacher's outputs in teachers.{position}.labels as the corpus does"
            )
        if len(set(names)) != len(names):
            raise UserError(f"teachers.{position} has a class twice: {', '.join(names)}; name each output once")
    taught = {name for names in teacher_labels for name in names}
    untaught = [name for name in number_of if name not in taught]
    if untaught:
        raise UserError(f"no teacher covers {untaught[0]!r}; add a teacher for it, or remove it from the corpus")
    return [[number_of[name] for name in names] for names in teacher_labels]


def _label_names(teacher: Any) -> list[str]:
    names = teacher.config.id2label
    return [names[number] for number in sorted(names)]


@dataclass(frozen=True)
class SoftLabelsConfig:
    """Weight and temperature of the soft labels; the defaults are those of the published scripts."""

    kd_alpha: float = 1.0
    """The weight of the soft labels."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax."""

    def __post_init__(self) -> None:
        check_soft_labels(self.kd_alpha, self.temperature)


class IntegrationDistiller(Distiller[ConfigT]):
    """A student that learns the classes of several teachers, of which each knows some; by default from their logits."""

    vanishes_for_identical_models = ("kd",)

    def __init__(
        self, config: ConfigT, student: nn.Module, teachers: Sequence[nn.Module] = (), *, teacher_labels: Labels = ()
    ) -> None:
        """``teacher_labels``: see ``ClassUnion``."""
        super().__init__(config, student, teachers)
        self.classes = ClassUnion(student, self.teachers, teacher_labels)

    @classmethod
    def requirements(cls, config: ConfigT) -> Requirements:
        """Any number of teachers, whose logits may be stored."""
        return reads_outputs("logits")

    @classmethod
    def check(cls, config: ConfigT, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse a regression."""
        refuse_regression(student_config)


def divergence(logits: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """KL(target || student) (B,) of the student's tempered logits (B, C), in nats."""
    return divergence_from_labels(widen(logits) / temperature, target)


def add_concatenated_kd(terms: Terms, logits: Tensor, target: Tensor, *, temperature: float) -> None:
    """Add ``kd``, the divergence from the teachers' concatenated target, and ``agreement`` with it, both over rows."""
    terms.add("kd", temperature**2 * divergence(logits, target, temperature=temperature))
    terms.add("agreement", agreement(logits, target))


@dataclass(frozen=True)
class AlignmentConfig:
    """Weights, layers and adapters; defaults are those of the published scripts unless a key says otherwise."""

    kd_alpha: float = 1.0
    """The weight of the soft labels."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax."""
    align_alpha: float = 1.0
    """The weight of the distance between the student's states and the teachers', published as ``almal_alpha``."""
    rec_alpha: float = 1.0
    """The weight of the reconstruction of the teachers' states, from which the adapters learn."""
    num_aligned_layers: int = -1
    """The number of aligned layers, from the last one down, published as ``align_number``; -1 aligns all."""
    student_layers: tuple[int, ...] | None = None
    """The student's layers to align in place of these, from 0 by their output; with a layer plan, in running order."""
    teacher_layers: tuple[tuple[int, ...], ...] | None = None
    """For each teacher, the layers to align them with, one for each, from 0 by their output."""
    mask_padding: bool = True
    """Whether only real tokens are aligned; false computes and aligns padding too, as published."""
    pad_to: int | None = field(default=None, metadata=LATER)
    """The length of rows while padding is aligned, published as 128; by default that of the micro-batch's longest."""
    adapter_learning_rate: float = 1e-3
    """The peak learning rate of the adapters, with the student's schedule; published as ``almal_lr``."""
    adapter_seed: int = 0
    """The seed of the adapters' initial weights."""
    parity_optimizer_groups: bool = False
    """Whether adapters train as published: their weights stay as drawn, their biases take the student's rate."""

    def __post_init__(self) -> None:
        check_soft_labels(self.kd_alpha, self.temperature)
        for key in ("align_alpha", "rec_alpha"):
            check_weight(key, getattr(self, key))
        if self.align_alpha == 0 and self.rec_alpha == 0:
            raise UserError("align_alpha and rec_alpha are 0, so no states are aligned; raise one, or use method vkd")
        if self.num_aligned_layers != -1 and self.num_aligned_layers < 1:
            raise UserError(f"num_aligned_layers is {self.num_aligned_layers}; it must be at least 1, or -1 for all")
        check_positive("adapter_learning_rate", self.adapter_learning_rate)
        check_pad_to(self.pad_to, compares_padding=not self.mask_padding, written="mask_padding: false")
        self._check_lists()

    def _check_lists(self) -> None:
        if (self.student_layers is None) != (self.teacher_layers is None):
            missing = "teacher_layers" if self.teacher_layers is None else "student_layers"
            raise UserError(f"{missing} is missing; give lists of layers for both, or for neither")
        if self.student_layers is None or self.teacher_layers is None:
            return
        if not self.student_layers:
            raise UserError("student_layers is empty; name at least one layer, or leave both lists out")
        for position, layers in enumerate(self.teacher_layers):
            if len(layers) != len(self.student_layers):
                raise UserError(
                    f"teacher_layers.{position} has {len(layers)} layers, student_layers {len(self.student_layers)}; "
                    "give equally many"
                )


def aligns_states(*, batch_dependent: bool, pad_to: int | None) -> Requirements:
    """Needs of a method that aligns states of one or more teachers, which run: states of tokens are not stored."""
    return Requirements(
        min_teachers=1,
        max_teachers=None,
        heads=HEADS,
        needs=STATES,
        labels=False,
        execution=Execution(
            batch_dependent=batch_dependent, pad_to=pad_to, sequential_teachers=True, partial_label_space=True
        ),
    )


def check_alignment(
    config: AlignmentConfig, student_config: Any, teacher_configs: Sequence[Any], match: MatchingLayer
) -> None:
    """Refuse a regression, layers that a model lacks, and padding of decoders; raises ValueError."""
    refuse_regression(student_config)
    aligned_layers(config, student_config, teacher_configs, match)
    check_one_width((student_config, *teacher_configs))
    for model in (student_config, *teacher_configs):
        if not config.mask_padding and family_of(model).vocabulary_head(model) == "causal_lm":
            raise UserError(f"method.mask_padding is false, but {model.model_type} is a decoder; set it to true")


def aligned_layers(
    config: AlignmentConfig, student_config: Any, teacher_configs: Sequence[Any], match: MatchingLayer
) -> tuple[Layers, tuple[Layers, ...]]:
    """Aligned layers of the student and, as many, of each teacher, the last ones first unless lists name them.

    Raises ValueError for a layer that a model lacks.
    """
    depth, depths = num_steps(student_config), [num_steps(one) for one in teacher_configs]
    if config.student_layers is not None and config.teacher_layers is not None:
        return _listed_layers(config.student_layers, config.teacher_layers, depth, depths)
    number = depth if config.num_aligned_layers == -1 else config.num_aligned_layers
    if number > depth:
        raise UserError(f"method.num_aligned_layers is {number}; the student has {depth} layers, write -1 for all")
    teacher_layers = tuple(
        tuple(match(below, depth, teacher_depth) for below in range(number)) for teacher_depth in depths
    )
    for position, layers in enumerate(teacher_layers):
        if min(layers) < 1:
            raise UserError(
                f"method.num_aligned_layers is {config.num_aligned_layers}, which aligns {number} layers, but "
                f"teachers.{position} has {depths[position]}; lower it, or give student_layers and teacher_layers"
            )
    return tuple(depth - below for below in range(number)), teacher_layers


def _listed_layers(
    student_layers: Layers, teacher_layers: Sequence[Layers], depth: int, depths: Sequence[int]
) -> tuple[Layers, tuple[Layers, ...]]:
    if len(teacher_layers) != len(depths):
        raise UserError(
            f"method.teacher_layers has lists for {len(teacher_layers)} teachers, but teachers has "
            f"{len(depths)}; give one list for each"
        )
    named = [("student_layers", student_layers, depth)]
    for position, layers in enumerate(teacher_layers):
        named.append((f"teacher_layers.{position}", layers, depths[position]))
    for key, layers, num_layers in named:
        wrong = [layer for layer in layers if not 0 <= layer < num_layers]
        if wrong:
            raise UserError(f"method.{key} has {wrong[0]}; the model has layers 0 to {num_layers - 1}")
    return tuple(layer + 1 for layer in student_layers), tuple(
        tuple(layer + 1 for layer in one) for one in teacher_layers
    )


class Adapters(nn.ModuleList):
    """A block for each aligned layer, the last layer's first; which layers these are, and how the blocks train."""

    def __init__(self, blocks: Iterable[nn.Module], layers: tuple[Layers, tuple[Layers, ...]], rule: GroupRule) -> None:
        super().__init__(blocks)
        self.layers = layers
        self.group_rule = rule


def make_adapters(
    config: AlignmentConfig,
    make_block: Callable[[int, list[int]], nn.Module],
    models: Sequence[Any],
    match: MatchingLayer,
    *,
    bias_decay: float | None = None,
) -> Adapters:
    """A block for each aligned layer, drawn only from ``adapter_seed``: N(0, 0.02), biases 0.

    ``models`` are the student and its teachers; ``make_block`` takes their hidden sizes. ``bias_decay`` is that of the
    published optimizer groups, see ``GroupRule``.
    """
    student, *teachers = (model.config for model in models)
    layers = aligned_layers(config, student, teachers, match)
    rule = GroupRule(learning_rate=config.adapter_learning_rate)
    if config.parity_optimizer_groups:
        rule = GroupRule(bias_decay=bias_decay)
    widths = [teacher.hidden_size for teacher in teachers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.adapter_seed)
        adapters = Adapters([make_block(student.hidden_size, widths) for _ in layers[0]], layers, rule)
        for name, parameter in adapters.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=_INIT_STD)
                parameter.requires_grad_(not config.parity_optimizer_groups)
    adapters.to(models[0].dtype)
    return adapters


def alignment_terms(config: AlignmentConfig, batch: Batch, *, align: int, rec: int) -> dict[str, Term]:
    """The terms of ``add_alignment``; ``align`` and ``rec`` are what these two are means over."""
    return {
        "kd": Term(batch.num_rows, config.kd_alpha),
        "agreement": Term(batch.num_rows),
        "align": Term(align, config.align_alpha),
        "rec": Term(rec, config.rec_alpha),
    }


def num_states(config: AlignmentConfig, batch: Batch) -> int:
    """Number of aligned states of a batch: its real tokens, or all positions of its padded rows."""
    return batch["token_index"].numel() if config.mask_padding else batch["input_ids"].numel()


def add_alignment(terms: Terms, method: Distiller[Any], classes: ClassUnion, adapters: Adapters, batch: Batch) -> None:
    """Add vanilla distillation, and the two sums that each adapter makes of its layer's states.

    An adapter takes the student's states (R, H), each teacher's (R, H_t) and their layout.
    """
    config: AlignmentConfig = method.config
    student_layers, teacher_layers = adapters.layers
    if not config.mask_padding:
        batch = padded_rows(batch)
    student = predict(method.student, batch, head=method.head, with_states=True)
    student_states = [student.hidden_states[number] for number in student_layers]
    found = [_teacher_states(method, batch, number, layers) for number, layers in enumerate(teacher_layers)]
    teachers, teacher_states = zip(*found, strict=True)
    losses = [
        adapter(states, [one.to(states.dtype) for one in others], student.layout)
        for adapter, states, *others in zip(adapters, student_states, *teacher_states, strict=True)
    ]
    target = classes.concatenated([one.logits for one in teachers], temperature=config.temperature)
    add_concatenated_kd(terms, student.logits, target, temperature=config.temperature)
    for name, sums in zip(("align", "rec"), zip(*losses, strict=True), strict=True):
        terms.add(name, torch.stack(sums))


# Without it the last norm of a teacher that is a decoder would be a leaf of the graph.
@torch.no_grad()
def _teacher_states(
    method: Distiller[Any], batch: Batch, number: int, layers: Layers
) -> tuple[Prediction, list[Tensor]]:
    """A teacher's outputs, and its states at ``layers``."""
    with weights_present(method.teachers[number]):
        teacher = method.run_teacher(batch, number=number, with_states=True)
        return teacher, [teacher.hidden_states[number] for number in layers]
