"""Which attention heads and feed-forward neurons a pruned model has kept: a record in its configuration.

``config.raydistill_kept`` keeps it, so that it is saved and loaded with the model, whose other sizes stay those of the
model that was pruned. Neurons are written as a hexadecimal number a block, whose highest bit is neuron 0.
"""

from dataclasses import dataclass
from typing import Any

from raydistill.user_error import UserError

KEY = "raydistill_kept"
"""Attribute of a transformers configuration that holds the kept units: lists ``heads`` and ``neurons``."""


@dataclass(frozen=True)
class KeptUnits:
    """Numbers of the units that each block has kept, ascending; none where the sub-layer is removed."""

    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]

    @property
    def num_heads(self) -> int:
        """Kept heads of all blocks."""
        return sum(map(len, self.heads))

    @property
    def num_neurons(self) -> int:
        """Kept neurons of all blocks."""
        return sum(map(len, self.neurons))

    def shown(self) -> str:
        """In one line, such as ``heads 3 2 4 0, neurons 512 384 256 8`` of four blocks."""
        heads, neurons = (" ".join(str(len(block)) for block in units) for units in (self.heads, self.neurons))
        return f"heads {heads}, neurons {neurons}"


def kept_of(config: Any) -> KeptUnits | None:
    """The kept units in a model's configuration, None for a model that is not pruned.

    Raises ValueError for a record that does not fit the model.
    """
    record = getattr(config, KEY, None)
    if record is None:
        return None
    try:
        kept = KeptUnits(
            tuple(tuple(int(head) for head in block) for block in record["heads"]),
            tuple(_of_hexadecimal(block, num_neurons(config)) for block in record["neurons"]),
        )
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{KEY} in the model's configuration is damaged; fetch the checkpoint again") from None
    check_kept(config, kept)
    return kept


def set_kept(config: Any, kept: KeptUnits | None) -> None:
    """Write kept units into a configuration; None takes away those that it has."""
    if kept is not None:
        neurons = [_hexadecimal(block, num_neurons(config)) for block in kept.neurons]
        setattr(config, KEY, {"heads": [list(block) for block in kept.heads], "neurons": neurons})
    elif hasattr(config, KEY):
        delattr(config, KEY)


def check_kept(config: Any, kept: KeptUnits) -> None:
    """Raise ValueError for units that a model of this configuration does not have."""
    for what, blocks, size in (
        ("heads", kept.heads, int(config.num_attention_heads)),
        ("neurons", kept.neurons, num_neurons(config)),
    ):
        if len(blocks) != config.num_hidden_layers:
            raise UserError(
                f"{KEY} has {what} of {len(blocks)} blocks, the model has {config.num_hidden_layers}; prune it again"
            )
        for units in blocks:
            if list(units) != sorted(set(units)) or (units and not 0 <= units[0] <= units[-1] < size):
                raise UserError(f"{KEY} has {what} that are not ascending numbers below {size}; prune the model again")


def head_size(config: Any) -> int:
    """Width of an attention head's states."""
    return int(config.hidden_size) // int(config.num_attention_heads)


def num_neurons(config: Any) -> int:
    """Feed-forward neurons of a block before any pruning; DistilBERT calls them ``hidden_dim``."""
    return int(config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size)


def _hexadecimal(units: tuple[int, ...], size: int) -> str:
    value = sum(1 << (size - 1 - unit) for unit in units)
    return f"{value:0{-(-size // 4)}x}"


def _of_hexadecimal(text: str, size: int) -> tuple[int, ...]:
    value = int(text, 16)
    if value >> size:
        raise UserError("more bits than neurons")
    return tuple(unit for unit, bit in enumerate(f"{value:0{size}b}") if bit == "1")
