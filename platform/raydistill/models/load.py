"""Checkpoints in and out: transformers folders, safetensors only, never code from outside."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from raydistill.models.blocks import families, family_of
from raydistill.models.classes import Names, class_order, keep_classes, redraw_classes, reorder_classes, with_classes
from raydistill.models.kept_units import kept_of
from raydistill.models.stored_tensors import PRUNED_WEIGHTS, WEIGHTS, is_published, open_tensors
from raydistill.user_error import UserError, placed

_HEADS: dict[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "sequence_classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "question_answering": AutoModelForQuestionAnswering,
}
CLASSIFIERS = ("sequence_classification", "token_classification")
"""Heads whose outputs are classes with names, or a score."""
_DROPOUT_FIELDS = (
    "dropout",
    "attention_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "seq_classif_dropout",
    "classifier_dropout",
    "qa_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "summary_first_dropout",
)
_STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_FROM_FOLDER = {"local_files_only": True, "trust_remote_code": False}


def head_of(model: nn.Module) -> str:
    """The name of a transformers model's head; raises ValueError for a model without any that is supported."""
    for head, auto in _HEADS.items():
        if type(model) in auto._model_mapping.values():
            return head
    raise UserError(f"{type(model).__name__} has no supported head; choices: {', '.join(sorted(_HEADS))}")


def stored_head(config: Any) -> str:
    """The name of the head that a checkpoint was saved with; raises ValueError where its configuration names none."""
    named = (config.architectures or ["none"])[0]
    for head, auto in _HEADS.items():
        if named in {made.__name__ for made in auto._model_mapping.values()}:
            return head
    raise UserError(f"the checkpoint is a {named}, which has no supported head; choices: {', '.join(sorted(_HEADS))}")


def head_in(folder: str | Path) -> str:
    """The name of the head of the checkpoint in a folder, also of one that StarK's authors published.

    Their configurations name classes that nobody else has. Raises ValueError as ``stored_head`` and ``load_config`` do.
    """
    if is_published(tensor_names(folder)):
        return "sequence_classification"
    return stored_head(load_config(folder))


def model_class(head: str) -> Any:
    """The transformers class that builds any family with a named head; raises ValueError for an unknown head."""
    if head not in _HEADS:
        raise UserError(f"head is {head!r}; choices: {', '.join(sorted(_HEADS))}")
    return _HEADS[head]


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a checkpoint folder; raises ValueError when there is none."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{str(folder)!r} has no .safetensors file; raydistill convert writes one from a pytorch_model.bin"
        )
    return files


def tensor_names(folder: str | Path) -> set[str]:
    """Names in the safetensors headers of a checkpoint folder; raises ValueError for none, or a damaged file."""
    return set(_stored_types(folder))


def stored_dtype(folder: str | Path) -> torch.dtype | None:
    """The type of all weights of a checkpoint folder, None where they have several; ``load_model`` maps those of it.

    Raises ValueError as ``tensor_names`` does.
    """
    found = [_STORED[kind] for kind in set(_stored_types(folder).values()) if kind in _STORED]
    return found[0] if len(found) == 1 else None


def _stored_types(folder: str | Path) -> dict[str, str]:
    """Type of each tensor by its name, as safetensors calls it."""
    types: dict[str, str] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                types |= {name: tensors.get_slice(name).get_dtype() for name in names}
        except SafetensorError as error:
            raise UserError(f"{str(file)!r} is damaged ({error}); fetch the checkpoint again") from None
    return types


def load_config(folder: str | Path) -> Any:
    """The transformers configuration in a checkpoint folder; raises ValueError when there is none."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{str(folder)!r} is no checkpoint: it has no config.json")
    try:
        return AutoConfig.from_pretrained(folder, **_FROM_FOLDER)
    except (ValueError, OSError) as error:
        raise UserError(f"{str(folder)!r} is no checkpoint that transformers knows: {_first_line(error)}") from None


def with_dropout(config: Any, dropout: float) -> Any:
    """A copy of the configuration with every dropout of its family set to ``dropout``."""
    changed = copy.deepcopy(config)
    for name in _DROPOUT_FIELDS:
        if getattr(changed, name, None) is not None:
            setattr(changed, name, dropout)
    return changed


def check_family(config: Any, *, head: str, of: str | Path) -> None:
    """Raise ValueError when the family of a configuration does not have a head, or is not supported as configured.

    ``of`` says in the message whose configuration it is.
    """
    model_class(head)
    choices = families(head)
    if config.model_type not in choices:
        raise UserError(f"{str(of)!r} is a {config.model_type} model; a {head} head works with: {', '.join(choices)}")
    family = family_of(config.model_type)
    refusal = family.refusal(config)
    if refusal is not None:
        raise UserError(f"{str(of)!r}: {refusal}")
    with placed(repr(str(of))):
        family.check_plan(config)
        kept_of(config)


def load_model(
    folder: str | Path,
    *,
    head: str,
    labels: Sequence[str] | None = None,
    names: Names = (),
    dropout: float | None = None,
    allow_new_head: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A model with the named head, in evaluation mode.

    A classifier has one output for each name in ``labels``, in that order, whatever the checkpoint's, whose outputs
    are ``names``, by default those of its configuration, those without a name left out; with no label it has a single
    output, a score; None keeps the checkpoint's classes. ``dropout`` replaces what the checkpoint says. With
    ``allow_new_head`` weights that only the head has may be missing, and outputs that are other classes are replaced;
    they are drawn from ``seed``. What else the checkpoint has, such as BERT's pooler, is kept. Raises ValueError,
    naming the weight, when any other is missing or has not the configuration's shape, when there is no safetensors
    file, for a family without that head and for other classes than ``labels``.
    """
    config = load_config(folder)
    check_family(config, head=head, of=folder)
    order: list[int] | None = []
    leaves_out = False
    if head in CLASSIFIERS and labels is not None:
        order = _order(config, labels, names, allow_other=allow_new_head)
        leaves_out = order is not None and len(order) < config.num_labels
        config = config if leaves_out else with_classes(config, labels)
    if dropout is not None:
        config = with_dropout(config, dropout)
    with _quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, info = _opened(folder, config, head=head, dtype=dtype)
    _check_loaded(folder, info, model, allow_new_head=allow_new_head)
    if order is None:
        redraw_classes(model, head, seed=seed)
    elif leaves_out:
        keep_classes(model, head, order, labels or ())
    elif order != sorted(order):
        reorder_classes(model, head, order)
    loaded: nn.Module = model.eval()
    return loaded


def _opened(folder: str | Path, config: Any, *, head: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """A model and what transformers tells of its loading."""
    files = weight_files(folder)
    if kept_of(config) is not None or is_published(tensor_names(folder)):
        return open_tensors(model_class(head)._model_mapping[type(config)], config, files, dtype=dtype)
    model, info = model_class(head).from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation="sdpa",
        use_safetensors=True,
        # Found and named by the caller; transformers would raise a page of text.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **_FROM_FOLDER,
    )
    return model, info


def _order(config: Any, labels: Sequence[str], names: Names, *, allow_other: bool) -> list[int] | None:
    """``class_order``, and None where a checkpoint of other classes is allowed and has such."""
    try:
        return class_order(config, labels, names=names)
    except UserError:
        if allow_other:
            return None
        raise


def _check_loaded(folder: str | Path, info: dict[str, Any], model: Any, *, allow_new_head: bool) -> None:
    of_head = family_of(model.config.model_type).HEAD_MODULES
    encoder_prefix = f"{model.base_model_prefix}."
    # A classifier of other classes is a head that the checkpoint lacks.
    replaced = [
        entry for entry in info["mismatched_keys"] if allow_new_head and not entry[0].startswith(encoder_prefix)
    ]
    mismatched = sorted(entry for entry in info["mismatched_keys"] if entry not in replaced)
    if mismatched:
        name, *shapes = mismatched[0]
        found, expected = (tuple(shape) for shape in shapes)
        raise UserError(f"{str(folder)!r} has {name} of shape {found}, its config.json says {expected}; correct it")
    missing = sorted(info["missing_keys"])
    of_encoder = [name for name in missing if name.startswith(encoder_prefix) and not name.startswith(of_head)]
    if of_encoder:
        raise UserError(f"{str(folder)!r} lacks {of_encoder[0]}; choose a checkpoint with all weights of its encoder")
    if missing and not allow_new_head:
        raise UserError(f"{str(folder)!r} lacks {missing[0]}; choose a checkpoint with its head, or write head: new")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without the table of missing weights and the bar, which the checks and the callers replace."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


def load_tokenizer(folder: str | Path) -> Any:
    """The fast tokenizer in a folder; raises ValueError when there is none."""
    # Without any file transformers makes a tokenizer of the special tokens alone.
    if not any((Path(folder) / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"{str(folder)!r} has no tokenizer; add its {' or '.join(_TOKENIZER_FILES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, **_FROM_FOLDER)
    except (ValueError, OSError) as error:
        reason = _first_line(error)
        raise UserError(f"{str(folder)!r} has no tokenizer that transformers can load: {reason}") from None
    if not tokenizer.is_fast:
        raise UserError(f"{str(folder)!r} has no fast tokenizer; add its tokenizer.json")
    return tokenizer


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write model and tokenizer so that plain transformers loads them from ``folder``.

    A pruned model's weights go to a file that it does not find: ``load_model`` alone opens them.
    """
    with _quiet_transformers():
        model.save_pretrained(folder)
    if kept_of(model.config) is not None:
        # A model this small is never cut into several files.
        (Path(folder) / WEIGHTS).rename(Path(folder) / PRUNED_WEIGHTS)
    tokenizer.save_pretrained(folder)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
