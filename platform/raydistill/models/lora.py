"""Students of which low-rank adapters are trained in place of their weights, by the library ``peft``.

Blocks call linear layers as modules, so an adapted layer stands where the plain one stood. The vocabulary projection is
read as a weight, which an adapter would not be part of; it can be trained whole instead.
Source: Hu et al. 2021, "LoRA: low-rank adaptation of large language models".
"""

import warnings
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raydistill.discovery import unknown_choice
from raydistill.models.heads import VOCABULARY_HEADS, head_of
from raydistill.user_error import UserError

ALL_LINEAR = "all-linear"
"""Word in place of names: every linear layer but the vocabulary projection and what is trained whole."""
ADAPTER = "adapter_model.safetensors"
"""File of the weights of an adapter, as ``peft`` calls it."""
_KEY = "student.lora"
_NAME = "default"
"""Name of the adapter among those that ``peft`` can give a model."""
_TASKS = {
    "causal_lm": "CAUSAL_LM",
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
}
"""What ``peft`` calls heads; it has no word for a masked-language model."""


class Options(Protocol):
    """Which layers get adapters, and of what kind; see ``config.sections.LoraConfig``."""

    @property
    def r(self) -> int:
        """Rank."""

    @property
    def alpha(self) -> float:
        """What an adapter's output is multiplied by, times its rank."""

    @property
    def dropout(self) -> float:
        """Dropout of an adapter's input."""

    @property
    def target_modules(self) -> Sequence[str]:
        """Ends of the names of linear layers, or ``all-linear`` alone."""

    @property
    def modules_to_save(self) -> Sequence[str] | None:
        """Ends of the names of modules that are trained whole."""


def check_library() -> None:
    """Raise UserError where ``peft`` is missing."""
    if find_spec("peft") is None:
        raise UserError(f"{_KEY} needs the library peft; pip install 'raydistill[lora]'")


def whole_modules(model: Any, options: Options) -> list[str]:
    """Names of the modules that are trained whole, by default of all that a classifier has beside the model.

    Raises UserError for a name that no module has.
    """
    if options.modules_to_save is None:
        base = model.base_model
        if head_of(model) in VOCABULARY_HEADS or base is model:
            return []
        children = [(name, child) for name, child in model.named_children() if child is not base]
        return [name for name, child in children if any(True for _ in child.parameters())]
    names = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    return _matching("modules_to_save", options.modules_to_save, names)


def adapted_layers(model: Any, options: Options) -> list[str]:
    """Names of the linear layers that get an adapter; raises UserError for a name that none of them has."""
    whole = {id(module) for name in whole_modules(model, options) for module in model.get_submodule(name).modules()}
    projection = model.get_output_embeddings() if head_of(model) in VOCABULARY_HEADS else None
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    found = [name for name, module in linear if id(module) not in whole and module is not projection]
    if list(options.target_modules) == [ALL_LINEAR]:
        return found
    return _matching("target_modules", options.target_modules, found)


def check_modules(model: Any, options: Options, *, is_merged: bool) -> None:
    """Raise UserError for names that match nothing, and for tied weights that an adapter's file cannot tell of."""
    adapted_layers(model, options)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    whole = [p for name in whole_modules(model, options) for p in model.get_submodule(name).parameters()]
    tied = next((names[id(p)] for p in whole if len(names[id(p)]) > 1), None)
    if tied is not None and not is_merged:
        raise UserError(
            f"{_KEY}.modules_to_save has {tied[0]}, which is tied to {tied[1]}, and an adapter's file holds only one "
            f"of the two; write {_KEY}.save: merged"
        )


def num_trained(model: Any, options: Options) -> int:
    """Parameters of the adapters, and of what is trained whole, of a model that may be without values."""
    sizes = [options.r * sum(model.get_submodule(name).weight.shape) for name in adapted_layers(model, options)]
    whole = {id(p): p.numel() for name in whole_modules(model, options) for p in model.get_submodule(name).parameters()}
    return sum(sizes) + sum(whole.values())


def _matching(key: str, wanted: Collection[str], names: Sequence[str]) -> list[str]:
    """Names that are one of those wanted, or end in one after a point; each has to be some name's."""
    for end in wanted:
        if not any(_ends_in(name, end) for name in names):
            raise UserError(unknown_choice(f"{_KEY}.{key}", end, sorted({name.rpartition(".")[2] for name in names})))
    return [name for name in names if any(_ends_in(name, end) for end in wanted)]


def _ends_in(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def add_adapters(model: Any, options: Options, *, seed: int = 0) -> Any:
    """Put adapters, drawn from ``seed``, into a model and freeze all else but what is trained whole.

    The model computes what it did, since an adapter starts at 0. Returns the ``LoraModel`` of peft around it.
    """
    check_library()
    from peft import LoraModel

    whole = [model.get_submodule(name) for name in whole_modules(model, options)]
    config = _peft_config(model, options)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        adapted = LoraModel(model, config, _NAME)
    for module in whole:
        module.requires_grad_(True)
    return adapted


def _peft_config(model: Any, options: Options) -> Any:
    from peft import LoraConfig

    names = adapted_layers(model, options)
    return LoraConfig(
        task_type=_TASKS.get(head_of(model)),
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in names),
    )


def merged(adapted: Any) -> Any:
    """The plain model, with each adapter added to the weight that it stands beside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapted.merge_and_unload().requires_grad_(True)


def save_adapter(adapted: Any, options: Options, *, base: Path, folder: Path) -> None:
    """Write the adapters, and what was trained whole, so that ``peft`` puts them on the model in ``base``."""
    model, config = adapted.model, adapted.peft_config[_NAME]
    whole = whole_modules(model, options)
    tensors: dict[str, Tensor] = model.state_dict()
    found = {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": tensor.contiguous().clone()
        for name, tensor in tensors.items()
        if ".lora_" in name or any(name.startswith(f"{one}.") for one in whole)
    }
    config.base_model_name_or_path, config.modules_to_save, config.inference_mode = str(base), whole or None, True
    config.save_pretrained(folder)
    save_file(found, folder / ADAPTER, metadata={"format": "pt"})
