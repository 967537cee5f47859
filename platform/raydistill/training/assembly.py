"""From a ``TrainSpec`` to an engine: student and teachers loaded where they belong, the method around them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.mixture import open_mixture
from raydistill.models.checkpointing import use_checkpointing
from raydistill.models.classes import known_labels
from raydistill.models.compiling import compile_blocks
from raydistill.models.freezing import freeze_embeddings, freeze_layers
from raydistill.models.heads import VOCABULARY_HEADS
from raydistill.models.layer_selection import freeze_position_embeddings
from raydistill.models.load import DTYPES, load_config, load_model, stored_dtype
from raydistill.models.lora import add_adapters
from raydistill.models.offloading import put_away
from raydistill.models.vocabulary import limit_ids
from raydistill.optim.optimizers import CLIP_PER_TENSOR, make_optimizer
from raydistill.optim.parameter_groups import parameter_groups
from raydistill.training.deepspeed_config import deepspeed_config, resolve_precision
from raydistill.training.engine import Engine, shard, shard_teacher
from raydistill.training.spec import TeacherSpec, TrainSpec


def build_engine(spec: TrainSpec, *, num_workers: int, device: torch.device) -> Engine:
    """Load the models of a training on this rank and wrap the method; all ranks call it."""
    training, settings = spec.training, spec.optimizer
    precision = resolve_precision(training.precision, use_gpu=spec.scaling.use_gpu)
    config = deepspeed_config(
        zero_stage=training.zero_stage,
        precision=precision,
        num_micro_batches=training.num_micro_batches(num_workers),
        max_grad_norm=0.0 if settings.name in CLIP_PER_TENSOR else settings.max_grad_norm,
    )
    encoding = open_mixture(spec.corpus).encoding
    labels = spec.task.outputs(encoding.labels)
    student = _load_student(spec, labels)
    exact = _rounded_weights(student, dtype=DTYPES[precision])
    if training.zero_stage == 3:
        shard(student, config, dtype=DTYPES[precision], device=device)
    taught = [_taught(teacher, spec, labels) for teacher in spec.teachers]
    teachers = [_load_teacher(teacher, spec, device, part) for teacher, part in zip(spec.teachers, taught, strict=True)]
    if training.compile_blocks:
        whole = [
            model
            for model, teacher in zip(teachers, spec.teachers, strict=True)
            if teacher.placement == "replicate" and teacher.quantization is None
        ]
        for model in (student, *whole):
            compile_blocks(model)
    if spec.method.distils and spec.task.head in VOCABULARY_HEADS:
        for model in (student, *teachers):
            limit_ids(model, encoding.vocab_size)
    distiller = spec.method.build(student, teachers, **_labels_of_teachers(spec, taught))
    distiller.encodings = tuple(teacher.encoding for teacher in spec.teachers)
    optimizer = make_optimizer(
        settings.name,
        parameter_groups(distiller, weight_decay=settings.weight_decay, learning_rate=settings.learning_rate),
        betas=settings.betas,
        epsilon=settings.epsilon,
        max_grad_norm=settings.max_grad_norm,
    )
    return Engine(distiller, config, optimizer, exact=exact)


@torch.no_grad()
def _rounded_weights(model: nn.Module, *, dtype: torch.dtype) -> dict[int, Tensor]:
    """The weights, by the identity of their parameter, that are others when they are rounded to ``dtype``."""
    return {
        id(parameter): parameter.detach()
        for parameter in model.parameters()
        if not torch.equal(parameter, parameter.to(dtype).to(parameter.dtype))
    }


def _taught(teacher: TeacherSpec, spec: TrainSpec, labels: Sequence[str]) -> Sequence[str]:
    """The classes that are read of a teacher: all, or those of them that it knows where the method joins several."""
    if not spec.method.requirements.execution.partial_label_space:
        return labels
    return known_labels(load_config(teacher.folder), labels, names=teacher.labels)


def _labels_of_teachers(spec: TrainSpec, taught: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What a method is told of the classes of its teachers, of which none runs where their outputs are stored."""
    if not spec.method.requirements.execution.partial_label_space:
        return {}
    return {"teacher_labels": taught if spec.stored is None else spec.stored.labels}


def _load_student(spec: TrainSpec, labels: Sequence[str]) -> nn.Module:
    student = load_model(spec.student, head=spec.task.head, labels=labels, dropout=spec.training.dropout)
    if spec.lora is not None:
        add_adapters(student, spec.lora, seed=spec.seed)
    if spec.freeze_position_embeddings:
        freeze_position_embeddings(student)
    if spec.freeze_embeddings:
        freeze_embeddings(student)
    freeze_layers(student, spec.freeze_layers)
    if spec.training.gradient_checkpointing:
        use_checkpointing(student)
    return student


def _load_teacher(teacher: TeacherSpec, spec: TrainSpec, device: torch.device, labels: Sequence[str]) -> nn.Module:
    load = partial(
        load_model,
        teacher.folder,
        head=spec.task.head,
        labels=labels,
        names=teacher.labels,
        allow_new_head=teacher.head == "new",
    )
    precision = resolve_precision(spec.training.precision_of_teachers, use_gpu=spec.scaling.use_gpu)
    dtype = DTYPES[precision]
    if teacher.quantization == "int8":
        return load(dtype=dtype, int8_on=device)
    if teacher.placement == "replicate":
        return load(dtype=dtype).to(device)
    if teacher.placement == "sequential":
        return put_away(load(dtype=dtype), device=device)
    config = deepspeed_config(
        zero_stage=3, precision=precision, num_micro_batches=1, max_grad_norm=spec.optimizer.max_grad_norm
    )
    # Weights of the type that they have in the file are mapped, not copied. What is drawn depends on its type.
    mapped = None if teacher.head == "new" else stored_dtype(teacher.folder)
    return shard_teacher(load(dtype=mapped or dtype), config, dtype=dtype, device=device)
