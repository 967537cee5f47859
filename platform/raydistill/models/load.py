"""Checkpoints in and out: transformers folders, safetensors only, never code from outside."""

import copy
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from raydistill.discovery import unknown_choice
from raydistill.models.blocks import families, family_of
from raydistill.models.classes import Names, class_order, keep_classes, redraw_classes, reorder_classes, with_classes
from raydistill.models.heads import CLASSIFIERS as CLASSIFIERS
from raydistill.models.heads import head_of as head_of
from raydistill.models.heads import model_class as model_class
from raydistill.models.heads import stored_head as stored_head
from raydistill.models.kept_units import kept_of
from raydistill.models.quantization import quantized_on
from raydistill.models.stored_tensors import PRUNED_WEIGHTS, WEIGHTS, is_published, open_tensors
from raydistill.user_error import UserError, placed, said

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
    "summary_last_dropout",
    "classifier_dropout_prob",
    "hidden_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "cls_dropout",
    "pooler_dropout",
    "activation_dropout",
    "dropout_rate",
    "layerdrop",
    "encoder_layerdrop",
    "decoder_layerdrop",
)
_STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What a model may compute in, by the words of a job."""
_ACTIVATIONS = ("hidden_act", "activation", "activation_function")
"""Keys of a configuration that name a function, by family."""
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_FROM_FOLDER = {"local_files_only": True, "trust_remote_code": False}


def head_in(folder: str | Path) -> str:
    """The name of the head of the checkpoint in a folder, also of one that StarK's authors published.

    Their configurations name classes that nobody else has. Raises ValueError as ``stored_head`` and ``load_config`` do.
    """
    if is_published(tensor_names(folder)):
        return "sequence_classification"
    return stored_head(load_config(folder))


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
    return {name: kind for name, (kind, _) in _headers(folder).items()}


def tensor_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a checkpoint folder by its name; raises ValueError as ``tensor_names`` does."""
    return {name: shape for name, (_, shape) in _headers(folder).items()}


def _headers(folder: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type, as safetensors calls it, and shape of each tensor by its name."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                slices = ((name, tensors.get_slice(name)) for name in tensors.keys())  # noqa: SIM118
                found |= {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices}
        except SafetensorError as error:
            raise UserError(f"{str(file)!r} is damaged ({error}); fetch the checkpoint again") from None
    return found


def check_shards(folder: str | Path, names: Collection[str]) -> None:
    """Raise ValueError for weights in several files that no index lists, or of which one is missing.

    ``names`` are the tensors that the files have.
    """
    files = {file.name for file in weight_files(folder)}
    index = Path(folder) / f"{WEIGHTS}.index.json"
    if files & {WEIGHTS, PRUNED_WEIGHTS}:
        return
    if not index.is_file():
        raise UserError(
            f"{str(folder)!r} has {min(files)}, but no {WEIGHTS} and no {index.name}; fetch all of it again"
        )
    try:
        listed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(index)!r} is not an index of weights ({error}); fetch the checkpoint again") from None
    missing = next((file for name, file in listed.items() if file not in files or name not in names), None)
    if missing is not None:
        raise UserError(f"{str(folder)!r} lacks {missing}, or a part of it, which {index.name} lists; fetch it again")


def load_config(folder: str | Path) -> Any:
    """The transformers configuration in a checkpoint folder; raises ValueError when there is none."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{str(folder)!r} is not a checkpoint: it has no config.json")
    with reading(f"{str(folder)!r} is not a checkpoint that transformers knows"):
        config = AutoConfig.from_pretrained(folder, **_FROM_FOLDER)
    # Here, since it looks for libraries that the pure half does without.
    from transformers.activations import ACT2FN

    for key in _ACTIVATIONS:
        name = getattr(config, key, None)
        if isinstance(name, str) and name not in ACT2FN:
            raise UserError(f"{str(folder)!r}: {unknown_choice(key, name, sorted(ACT2FN))}")
    return config


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever a library raises over a checkpoint's files, which are all that it reads, shows ``what``."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{what} ({said(error)}); correct its files, or fetch it again") from None


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
    family = family_of(config, head)
    if head not in family.heads(config):
        raise UserError(
            f"{str(of)!r} is a {config.model_type} model; a {head} head works with: {', '.join(families(head))}, "
            "and slower with any other model that transformers has with that head"
        )
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
    int8_on: torch.device | None = None,
) -> nn.Module:
    """A model with the named head, in evaluation mode.

    A classifier has one output for each name in ``labels``, in that order, whatever the checkpoint's, whose outputs
    are ``names``, by default those of its configuration, those without a name left out; with no label it has a single
    output, a score; None keeps the checkpoint's classes. ``dropout`` replaces what the checkpoint says. With
    ``allow_new_head`` weights that only the head has may be missing, and outputs that are other classes are replaced;
    they are drawn from ``seed``. With ``int8_on`` a GPU, the model is there and its linear layers hold a byte a weight.
    What else the checkpoint has, such as BERT's pooler, is kept. Raises ValueError,
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
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with reading(f"{str(folder)!r} is not a {head} that transformers can open"):
            model, info = _opened(folder, config, head=head, dtype=dtype, int8_on=int8_on)
    _check_loaded(folder, info, model, allow_new_head=allow_new_head)
    if order is None:
        redraw_classes(model, head, seed=seed)
    elif leaves_out:
        keep_classes(model, head, order, labels or ())
    elif order != sorted(order):
        reorder_classes(model, head, order)
    loaded: nn.Module = model.eval()
    return loaded


def _opened(
    folder: str | Path, config: Any, *, head: str, dtype: torch.dtype, int8_on: torch.device | None
) -> tuple[Any, dict[str, Any]]:
    """A model and what transformers tells of its loading."""
    files = weight_files(folder)
    if kept_of(config) is not None or is_published(tensor_names(folder)):
        return open_tensors(model_class(head)._model_mapping[type(config)], config, files, dtype=dtype)
    model, info = model_class(head).from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=family_of(config, head).ATTENTION,
        use_safetensors=True,
        # Found and named by the caller; transformers would raise a page of text.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **({} if int8_on is None else quantized_on(int8_on)),
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
    # A pooler belongs to the heads that read it.
    pooler = f"{encoder_prefix}pooler."
    of_encoder = [name for name in missing if name.startswith(encoder_prefix) and not name.startswith(pooler)]
    if of_encoder:
        raise UserError(f"{str(folder)!r} lacks {of_encoder[0]}; choose a checkpoint with all weights of its encoder")
    if missing and not allow_new_head:
        raise UserError(f"{str(folder)!r} lacks {missing[0]}; choose a checkpoint with its head, or write head: new")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' table of missing weights and its bar, which the checks and the callers replace."""
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
    with reading(f"{str(folder)!r} has no tokenizer that transformers can load"):
        tokenizer = _tokenizer_in(Path(folder))
    if not tokenizer.is_fast:
        raise UserError(f"{str(folder)!r} has no fast tokenizer; add its tokenizer.json")
    return tokenizer


def _tokenizer_in(folder: Path) -> Any:
    """The tokenizer, by itself where transformers does not know the model beside it."""
    try:
        return AutoTokenizer.from_pretrained(folder, use_fast=True, **_FROM_FOLDER)
    except (ValueError, OSError, KeyError):
        if not (folder / _TOKENIZER_FILES[0]).is_file():
            raise
        return PreTrainedTokenizerFast.from_pretrained(folder, **_FROM_FOLDER)


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write model and tokenizer so that plain transformers loads them from ``folder``.

    A pruned model's weights go to a file that it does not find: ``load_model`` alone opens them.
    """
    with quiet_transformers():
        model.save_pretrained(folder)
    if kept_of(model.config) is not None:
        # A model this small is never cut into several files.
        (Path(folder) / WEIGHTS).rename(Path(folder) / PRUNED_WEIGHTS)
    tokenizer.save_pretrained(folder)
