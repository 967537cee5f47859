"""Checkpoints that StarK's code has reordered and cut: ``sparsity`` and ``sparsity_map`` in their configuration.

Source: code GeneZC/StarK @ ac1e8d1. Units of each block are in the order of their scores, so that those that go are the
last ones. The map says by the level, in percent, how many heads and neurons of each block go; the width that goes is
rounded to a multiple of 8. A checkpoint whose ``sparsity`` is another level than 0 has lost them already.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raydistill.models.heads import model_class
from raydistill.models.kept_units import KeptUnits, head_size, num_neurons, set_kept
from raydistill.models.pruning import kept_count, pruned
from raydistill.models.small_shapes import shrink
from raydistill.models.unit_masks import check_units
from raydistill.user_error import UserError

_LEVEL, _MAP = "sparsity", "sparsity_map"
_WHOLE = "0"
_MULTIPLE = 8
_HEAD = "sequence_classification"


def kept_at(config: Any, level: str | None) -> KeptUnits | None:
    """The units that a checkpoint has kept, or has to keep for a level of its map; None for one that stays whole.

    They are written into the configuration, in place of the published record. Raises ValueError for a level or a map
    that there is not, and for a checkpoint that is cut to another level already.
    """
    own = str(getattr(config, _LEVEL, _WHOLE))
    if own != _WHOLE and level is not None:
        raise UserError(f"sparsity is {level}, but the checkpoint is cut to {own} already; leave it out")
    wanted = own if level is None else level
    if wanted == _WHOLE:
        return None
    check_units(config)
    kept = _of_map(config, wanted)
    set_kept(config, kept)
    return kept


def cut_to(tensors: Mapping[str, Tensor], config: Any, kept: KeptUnits) -> dict[str, Tensor]:
    """The tensors of a classifier, under transformers' names, that kept units leave; the record goes.

    Those of a whole checkpoint are cut; those that the published code has cut already are checked. Raises ValueError
    for a tensor that is missing or has another shape than the map says.
    """
    is_whole = str(getattr(config, _LEVEL, _WHOLE)) == _WHOLE
    for key in (_LEVEL, _MAP):
        if hasattr(config, key):
            delattr(config, key)
    set_kept(config, None)
    with torch.random.fork_rng(devices=[]):
        made: Any = model_class(_HEAD).from_config(config, attn_implementation="sdpa")
    if not is_whole:
        shrink(made, kept)
    # The published code leaves the biases of sub-layers that it skips, and tensors without elements.
    wanted = {name: tensor.shape for name, tensor in made.state_dict().items()}
    for name, shape in wanted.items():
        if name not in tensors:
            raise UserError(f"it lacks {name}; fetch the checkpoint again")
        if tensors[name].shape != shape:
            raise UserError(
                f"it has {name} of shape {tuple(tensors[name].shape)}, its {_MAP} says {tuple(shape)}; fetch the "
                "checkpoint again"
            )
    if is_whole:
        made.load_state_dict({name: tensors[name] for name in wanted})
        made = pruned(made, kept)
        wanted = made.state_dict()
        tensors = wanted
    set_kept(config, kept)
    return {name: tensors[name] for name in wanted}


def _of_map(config: Any, level: str) -> KeptUnits:
    """The units that the map leaves at a level, the first ones of each block."""
    found = getattr(config, _MAP, None)
    if not isinstance(found, Mapping) or level not in found:
        known = ", ".join(map(str, found)) if isinstance(found, Mapping) and found else "no level"
        raise UserError(f"sparsity is {level}, but the checkpoint's {_MAP} has {known}; choose a level that it has")
    heads = _leading(config, found[level], "head", int(config.num_attention_heads), size=head_size(config))
    return KeptUnits(heads, _leading(config, found[level], "neuron", num_neurons(config), size=1))


def _leading(config: Any, section: Any, kind: str, units: int, *, size: int) -> tuple[tuple[int, ...], ...]:
    counts = section.get(kind) if isinstance(section, Mapping) else None
    if not isinstance(counts, Mapping):
        raise UserError(f"the checkpoint's {_MAP} says nothing of a {kind}; fetch it again")
    blocks = [str(number) for number in range(config.num_hidden_layers)]
    for block, count in counts.items():
        if block not in blocks or not isinstance(count, int) or not 0 <= count <= units:
            raise UserError(
                f"the checkpoint's {_MAP} takes {count!r} of a {kind} from block {block}; it has blocks 0 to "
                f"{len(blocks) - 1} of {units}; fetch it again"
            )
    kept = [kept_count(units, counts.get(block, 0), size=size, multiple_of=_MULTIPLE) for block in blocks]
    return tuple(tuple(range(count)) for count in kept)
