"""What the methods of knowledge integration share that align hidden states, token by token, through trained adapters.

Li et al. 2022, "From Mimicking to Integrating", Findings of EMNLP; code lancopku/MUKI @ 703fd17.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raydistill.batch import Batch, padded_rows
from raydistill.losses.integrated_targets import agreement
from raydistill.losses.reduction import mean_over
from raydistill.methods._base import Distiller, Requirements, count_of
from raydistill.methods._checks import check_positive, check_weight
from raydistill.methods._integration import HEADS, IntegrationConfig, IntegrationDistiller
from raydistill.methods._teacher_outputs import run_teacher
from raydistill.models.blocks import blocks_of, family_of
from raydistill.models.layer_plan import num_steps
from raydistill.models.offloading import weights_present
from raydistill.models.predictions import Prediction, predict
from raydistill.optim.parameter_groups import GroupRule

Layers = tuple[int, ...]
"""Numbers k of hidden states hs[k], the outputs of k blocks."""
Match = Callable[[int, int, int], int]
"""From a layer's place below the last one and the depths of student and teacher to the teacher's hidden state."""

_INIT_STD = 0.02


@dataclass(frozen=True)
class AlignmentConfig(IntegrationConfig):
    """Weights, layers and adapters; defaults are those of the published scripts unless a key says otherwise."""

    align_alpha: float = 1.0
    """Weight of the distance of the student's states from the teachers', published as ``almal_alpha``."""
    rec_alpha: float = 1.0
    """Weight of the reconstruction of the teachers' states, from which the adapters learn."""
    num_aligned_layers: int = -1
    """How many layers are aligned, from the last one down, published as ``align_number``; -1 for all of the student."""
    student_layers: tuple[int, ...] | None = None
    """Student layers to align in place of these, from 0 by their output; with a layer plan in running order."""
    teacher_layers: tuple[tuple[int, ...], ...] | None = None
    """For each teacher the layers that they are aligned with, one each, from 0 by their output."""
    mask_padding: bool = True
    """Align real tokens alone; false computes and aligns padding too, as published."""
    adapter_learning_rate: float = 1e-3
    """Greatest rate of the adapters, which follows the schedule of the student's; published as ``almal_lr``."""
    adapter_seed: int = 0
    """Where the adapters' first weights are drawn from."""
    parity_optimizer_groups: bool = False
    """Train the adapters as the published code does: weights stay as drawn, biases have the student's rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("align_alpha", "rec_alpha"):
            check_weight(key, getattr(self, key))
        if self.align_alpha == 0 and self.rec_alpha == 0:
            raise ValueError("align_alpha and rec_alpha are 0, so no states are aligned; raise one, or use method vkd")
        if self.num_aligned_layers != -1 and self.num_aligned_layers < 1:
            raise ValueError(f"num_aligned_layers is {self.num_aligned_layers}; it must be at least 1, or -1 for all")
        check_positive("adapter_learning_rate", self.adapter_learning_rate)
        self._check_lists()

    def _check_lists(self) -> None:
        if (self.student_layers is None) != (self.teacher_layers is None):
            missing = "teacher_layers" if self.teacher_layers is None else "student_layers"
            raise ValueError(f"{missing} is missing; give lists of layers for both, or for neither")
        if self.student_layers is None or self.teacher_layers is None:
            return
        if not self.student_layers:
            raise ValueError("student_layers is empty; name at least one layer, or leave both lists out")
        for position, layers in enumerate(self.teacher_layers):
            if len(layers) != len(self.student_layers):
                raise ValueError(
                    f"teacher_layers.{position} has {len(layers)} layers, student_layers {len(self.student_layers)}; "
                    "give equally many"
                )


class Adapters(nn.ModuleList):
    """A block for each aligned layer, the last layer's first, and how they train."""

    def __init__(self, blocks: Iterable[nn.Module], rule: GroupRule) -> None:
        super().__init__(blocks)
        self.group_rule = rule


def make_adapters(
    config: AlignmentConfig, make_block: Callable[[], nn.Module], number: int, *, student: Any, bias_decay: float | None
) -> Adapters:
    """As many blocks as there are aligned layers, drawn from ``adapter_seed`` alone: N(0, 0.02), biases 0.

    ``bias_decay`` is that of the published groups, see ``GroupRule``.
    """
    rule = GroupRule(learning_rate=config.adapter_learning_rate)
    if config.parity_optimizer_groups:
        rule = GroupRule(bias_decay=bias_decay)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.adapter_seed)
        adapters = Adapters([make_block() for _ in range(number)], rule)
        for name, parameter in adapters.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=_INIT_STD)
                parameter.requires_grad_(not config.parity_optimizer_groups)
    adapters.to(student.dtype)
    return adapters


def of_running_teachers(*, row_coupled: bool) -> Requirements:
    """One teacher or more, which run: hidden states of tokens are not stored."""
    return Requirements(
        min_teachers=1,
        max_teachers=None,
        row_coupled=row_coupled,
        heads=HEADS,
        partial_labels=True,
        labels=False,
        one_at_a_time=True,
    )


def aligned_layers(
    config: AlignmentConfig, student_config: Any, teacher_configs: Sequence[Any], match: Match
) -> tuple[Layers, tuple[Layers, ...]]:
    """Aligned layers of the student and, as many, of each teacher, the last ones first unless lists name them.

    Raises ValueError for a layer that a model lacks.
    """
    depth, depths = num_steps(student_config), [num_steps(one) for one in teacher_configs]
    if config.student_layers is not None and config.teacher_layers is not None:
        return _listed_layers(config.student_layers, config.teacher_layers, depth, depths)
    number = depth if config.num_aligned_layers == -1 else config.num_aligned_layers
    if number > depth:
        raise ValueError(f"method.num_aligned_layers is {number}; the student has {depth} layers, write -1 for all")
    of_teachers = tuple(tuple(match(below, depth, of_teacher) for below in range(number)) for of_teacher in depths)
    for position, layers in enumerate(of_teachers):
        if min(layers) < 1:
            raise ValueError(
                f"method.num_aligned_layers is {config.num_aligned_layers}, which aligns {number} layers, but "
                f"teachers.{position} has {depths[position]}; lower it, or give student_layers and teacher_layers"
            )
    return tuple(depth - below for below in range(number)), of_teachers


def _listed_layers(
    of_student: Layers, of_teachers: Sequence[Layers], depth: int, depths: Sequence[int]
) -> tuple[Layers, tuple[Layers, ...]]:
    if len(of_teachers) != len(depths):
        raise ValueError(
            f"method.teacher_layers has lists for {len(of_teachers)} teachers, teachers has {len(depths)}; give as many"
        )
    named = [("student_layers", of_student, depth)]
    for position, layers in enumerate(of_teachers):
        named.append((f"teacher_layers.{position}", layers, depths[position]))
    for key, layers, num_layers in named:
        wrong = [layer for layer in layers if not 0 <= layer < num_layers]
        if wrong:
            raise ValueError(f"method.{key} has {wrong[0]}; the model has layers 0 to {num_layers - 1}")
    return tuple(layer + 1 for layer in of_student), tuple(tuple(layer + 1 for layer in one) for one in of_teachers)


def token_count(config: AlignmentConfig, batch: Batch) -> Tensor:
    """Number of aligned states of a batch, 0-d float64: real tokens, or all places of its padded rows."""
    return count_of(batch, batch["token_index"].numel() if config.mask_padding else batch["input_ids"].numel())


# Without it the last norm of a teacher that is a decoder would be a leaf of the graph.
@torch.no_grad()
def _of_teacher(distiller: Distiller, batch: Batch, number: int, layers: Layers) -> tuple[Prediction, list[Tensor]]:
    """What a teacher says, and its states at ``layers``."""
    with weights_present(distiller.teachers[number]):
        said = run_teacher(distiller, batch, number=number, with_states=True)
        return said, states_at(distiller.teachers[number], said, layers)


def states_at(model: nn.Module, prediction: Prediction, layers: Layers) -> list[Tensor]:
    """Hidden states (R, H) of these numbers as transformers gives them: a decoder's last ones are normalized."""
    blocks = blocks_of(model)
    last = len(prediction.states) - 1
    return [
        blocks.last_states(prediction.states[number]) if number == last else prediction.states[number]
        for number in layers
    ]


class AlignmentDistiller(IntegrationDistiller):
    """``kd_alpha * kd + align_alpha * align + rec_alpha * rec``, the latter two of a ``BLOCK`` for each aligned layer.

    A subclass names its block, made of the student's width and the teachers', and which layers match.
    """

    BLOCK: ClassVar[type[nn.Module]]
    """From a layer's states of the student (R, H) and of each teacher (R, H_t) to the sums of two losses."""
    PUBLISHED_BIAS_DECAY: ClassVar[float | None] = None
    """See ``GroupRule.bias_decay``."""

    def __init__(
        self,
        config: Any,
        student: nn.Module,
        teachers: Sequence[nn.Module] = (),
        *,
        teacher_labels: Sequence[Sequence[str]] = (),
    ) -> None:
        super().__init__(config, student, teachers, teacher_labels=teacher_labels)
        own: Any = student.config
        others: list[Any] = [teacher.config for teacher in self.teachers]
        self.layers = aligned_layers(config, own, others, self.matching_layer)
        widths = [one.hidden_size for one in others]
        self.adapters = make_adapters(
            config,
            lambda: self.BLOCK(own.hidden_size, widths),
            len(self.layers[0]),
            student=student,
            bias_decay=self.PUBLISHED_BIAS_DECAY,
        )

    @staticmethod
    @abstractmethod
    def matching_layer(below: int, student_depth: int, teacher_depth: int) -> int:
        """The teacher's hidden state for the student's that is ``below`` the last."""

    @classmethod
    def check(cls, config: Any, student_config: Any, teacher_configs: Sequence[Any]) -> None:
        """Refuse scores, layers that a model lacks, and padding of decoders."""
        super().check(config, student_config, teacher_configs)
        aligned_layers(config, student_config, teacher_configs, cls.matching_layer)
        for model in (student_config, *teacher_configs):
            if not config.mask_padding and family_of(model.model_type).HEAD != "masked_lm":
                raise ValueError(f"method.mask_padding is false, but {model.model_type} is a decoder; set it to true")

    def forward(self, batch: Batch, denominators: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the base class."""
        config, counts = self.config, {name: count.clamp(min=1) for name, count in denominators.items()}
        if not config.mask_padding:
            batch = padded_rows(batch)
        student = predict(self.student, batch, head=self.head, with_states=True)
        own = states_at(self.student, student, self.layers[0])
        said = [_of_teacher(self, batch, number, of_teacher) for number, of_teacher in enumerate(self.layers[1])]
        teachers, others = zip(*said, strict=True)
        losses = [
            adapter(states, of_teachers, student.layout)
            for adapter, states, *of_teachers in zip(self.adapters, own, *others, strict=True)
        ]
        target = self.concatenated([one.logits for one in teachers])
        rows = config.temperature**2 * self.divergence(student.logits, target)
        terms = {"kd": mean_over(rows, counts["kd"])}
        for number, name in enumerate(("align", "rec")):
            terms[name] = mean_over(torch.stack([of_layer[number] for of_layer in losses]), counts[name])
        terms["agreement"] = mean_over(agreement(student.logits, target), counts["agreement"])
        loss = config.kd_alpha * terms["kd"] + config.align_alpha * terms["align"] + config.rec_alpha * terms["rec"]
        return loss, {name: term.detach() for name, term in terms.items()}
