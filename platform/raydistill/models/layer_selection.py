"""Students made from a teacher: its embeddings, chosen blocks, final norm and head, in the student's own architecture.

Source: the published ``extract_distilbert.py`` and ``extract.py`` of DistilBERT and Causal-Distill.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DistilBertConfig

from raydistill.models import kept_units
from raydistill.models.blocks import family_of
from raydistill.models.checks import check_layers
from raydistill.models.load import head_of, model_class
from raydistill.models.student_shapes import shortened
from raydistill.user_error import UserError

_UP_TO_6 = (0, 2, 4, 7, 9, 11)
_UP_TO_9 = (0, 2, 3, 4, 7, 8, 9, 10, 11)

_BLOCK_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
_POSITION_TABLES = ("position_embeddings.weight", "wpe.weight")
_SHARED_NAMES = {
    "bert.embeddings.word_embeddings.weight": "distilbert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight": "distilbert.embeddings.position_embeddings.weight",
    "bert.embeddings.LayerNorm.weight": "distilbert.embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.bias": "distilbert.embeddings.LayerNorm.bias",
    "cls.predictions.bias": "vocab_projector.bias",
}
_TRANSFORM_NAMES = {
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
}


def published_layers(num_layers: int) -> list[int]:
    """Blocks of a 12-layer teacher that a student of 1 to 9 layers copies, as published.

    Three layers are 0, 2 and 4, not spread over the depth. Raises ValueError for more than 9.
    """
    if not 1 <= num_layers <= len(_UP_TO_9):
        raise UserError(f"num_layers is {num_layers}; published lists have 1 to 9 blocks, give layers instead")
    return list((_UP_TO_6 if num_layers <= len(_UP_TO_6) else _UP_TO_9)[:num_layers])


def student_config(
    teacher: Any,
    *,
    architecture: str | None,
    num_layers: int,
    layers: Sequence[int] | None = None,
    head: str | None = None,
) -> Any:
    """Configuration of a student with the teacher's sizes and ``num_layers`` blocks, by default like its first ones.

    ``layers`` are the teacher's blocks that they are copied from. ``head`` None is the family's vocabulary head.
    ``architecture`` None is DistilBERT for a BERT teacher with a vocabulary head, as published, and the teacher's own
    for every other.
    A DistilBERT made from BERT has the published dropout of 0.1; a student of the teacher's family keeps its own.
    Raises ValueError for a teacher that is not supported or cannot become that architecture.
    """
    becomes_distilbert = teacher.model_type == "bert" and head in (None, "masked_lm")
    choices = ("distilbert", "bert") if becomes_distilbert else (teacher.model_type,)
    if architecture is None:
        architecture = choices[0]
    if architecture not in choices:
        raise UserError(
            f"student.architecture is {architecture!r}, but it is made from a {teacher.model_type}; "
            f"choices: {', '.join(choices)}"
        )
    if layers is not None:
        check_copied(teacher, layers)
    if architecture == teacher.model_type:
        return shortened(teacher, range(num_layers) if layers is None else layers)
    return DistilBertConfig(
        vocab_size=teacher.vocab_size,
        max_position_embeddings=teacher.max_position_embeddings,
        sinusoidal_pos_embds=True,
        n_layers=num_layers,
        n_heads=teacher.num_attention_heads,
        dim=teacher.hidden_size,
        hidden_dim=teacher.intermediate_size,
        dropout=0.1,
        attention_dropout=0.1,
        activation=teacher.hidden_act,
        initializer_range=0.02,
        pad_token_id=teacher.pad_token_id,
        tie_word_embeddings=teacher.tie_word_embeddings,
    )


def check_copied(teacher: Any, layers: Sequence[int]) -> None:
    """Raise ValueError for blocks of a teacher that cannot be copied to a student in this order."""
    family = family_of(teacher)
    if family.FIRST_DIFFERS and [layer == 0 for layer in layers] != [True] + [False] * (len(layers) - 1):
        raise UserError(
            f"layers is {list(layers)}, but block 0 of a {teacher.model_type} is unlike the others; begin with it, and "
            "name it once"
        )
    if family.SHARED and teacher.num_hidden_groups > 1:
        raise UserError(
            f"layers is {list(layers)}, but the {teacher.num_hidden_layers} blocks of the {teacher.model_type} share "
            f"{teacher.num_hidden_groups} groups of weights; only those of one group can be copied"
        )


def random_student(
    teacher: Any,
    *,
    architecture: str | None,
    num_layers: int,
    seed: int,
    layers: Sequence[int] | None = None,
    head: str | None = None,
) -> nn.Module:
    """A fresh student in float32 with the ``student_config`` of a teacher's configuration, drawn from ``seed`` alone.

    DistilBERT's positions are sinusoids. Deviation: the published code draws noise over them and freezes that.
    """
    config = student_config(teacher, architecture=architecture, num_layers=num_layers, layers=layers, head=head)
    return fresh_student(config, seed=seed, head=head)


def fresh_student(config: Any, *, seed: int, head: str | None = None) -> nn.Module:
    """A student in float32 with a configuration, drawn from ``seed`` alone, with by default its vocabulary head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The configuration may name the half precision that the teacher was stored in.
        head = head or family_of(config).vocabulary_head(config)
        assert head is not None, f"{config.model_type} has no vocabulary head"
        model: nn.Module = model_class(head).from_config(
            config, dtype=torch.float32, attn_implementation=family_of(config, head).ATTENTION
        )
    return model.eval()


def student_from_layers(
    teacher: nn.Module,
    *,
    layers: Sequence[int],
    architecture: str | None = None,
    vocab_transform: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A student with the teacher's embeddings, the blocks ``layers`` of it, its final norm and its head.

    Blocks are numbered from 0; the student is in float32 and in evaluation mode. ``architecture`` None is DistilBERT
    for a BERT with a vocabulary head, as published, and the teacher's own for every other. DistilBERT has no token
    types: the teacher's are dropped. Without ``vocab_transform`` the transform in the head of a DistilBERT made from
    BERT, or of a RoBERTa, starts fresh, drawn from ``seed``, as published; other students copy the whole head. Shapes
    are the teacher's; there is no unit. Raises ValueError for a layer that the teacher lacks, a family it cannot become
    and a teacher that is pruned. Source: the published ``extract_distilbert.py``.

    >>> rd.student_from_layers(teacher, layers=[0]).config.num_hidden_layers
    1
    """
    config: Any = teacher.config
    check_layers(layers, config.num_hidden_layers, key="layers")
    if kept_units.kept_of(config) is not None:
        raise UserError("the teacher is pruned; copy layers of the checkpoint that it was pruned from")
    student = random_student(
        config, architecture=architecture, num_layers=len(layers), seed=seed, layers=layers, head=head_of(teacher)
    )
    made: Any = student.config
    if made.model_type == config.model_type:
        left_out = () if vocab_transform else family_of(config).HEAD_TRANSFORM
        state = _same_family_state(teacher, layers, left_out=left_out)
    else:
        left_out = () if vocab_transform else tuple(_TRANSFORM_NAMES.values())
        state = _distilbert_state(teacher, layers, vocab_transform=vocab_transform)
    loaded = student.load_state_dict(state, strict=False)
    fresh = {name for name in loaded.missing_keys if not name.startswith(left_out)}
    if not family_of(made).IN_PARTS and (fresh or loaded.unexpected_keys):
        name = [*sorted(fresh), *loaded.unexpected_keys][0]
        raise UserError(
            f"layers is {list(layers)}, but blocks of a {made.model_type} are unlike each other ({name}); keep them in "
            "their order from block 0 on"
        )
    assert not fresh, fresh
    assert not loaded.unexpected_keys, loaded.unexpected_keys
    return student


def _same_family_state(teacher: nn.Module, layers: Sequence[int], *, left_out: tuple[str, ...]) -> dict[str, Tensor]:
    """The teacher's tensors with its blocks renumbered, without those of the modules in ``left_out``."""
    config: Any = teacher.config
    family = family_of(config, head_of(teacher))
    prefix = f"{family.layers_name(teacher)}."
    tensors = teacher.state_dict()
    if family.SHARED:
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith((prefix, *left_out))}
    for position, layer in enumerate(layers):
        source = f"{prefix}{layer}."
        for name, tensor in tensors.items():
            if name.startswith(source):
                state[f"{prefix}{position}.{name.removeprefix(source)}"] = tensor
    return state


def _distilbert_state(teacher: nn.Module, layers: Sequence[int], *, vocab_transform: bool) -> dict[str, Tensor]:
    """BERT's tensors under DistilBERT's names."""
    tensors = teacher.state_dict()
    state = {new: tensors[old] for old, new in _SHARED_NAMES.items()}
    modules = {
        f"bert.encoder.layer.{layer}.{old}": f"distilbert.transformer.layer.{position}.{new}"
        for position, layer in enumerate(layers)
        for old, new in _BLOCK_NAMES.items()
    }
    if vocab_transform:
        modules |= _TRANSFORM_NAMES
    for old, new in modules.items():
        for kind in ("weight", "bias"):
            state[f"{new}.{kind}"] = tensors[f"{old}.{kind}"]
    state["vocab_projector.weight"] = tensors["cls.predictions.decoder.weight"]
    return state


def freeze_position_embeddings(model: nn.Module) -> None:
    """Take position embeddings out of training, where the family has a table of them; call it again after loading,
    which forgets it.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(_POSITION_TABLES):
            parameter.requires_grad_(False)
