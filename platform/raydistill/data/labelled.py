"""Which parts of a corpus have labels: all, what is held out alone, or none."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from raydistill.config.named import EncodingSpec

PARTS = ("train", "held_out")
"""Parts of a corpus in the order of their numbers."""


def of_part(encoding: EncodingSpec, part: int) -> EncodingSpec:
    """The encoding of the rows of a part, by its number; another than that of the corpus where labels are of one part.

    The ``EncodeConfig`` of a task whose rows may lack labels has a method of the same name for that.
    """
    of_config = getattr(encoding.config, "of_part", None)
    return encoding if of_config is None else dataclasses.replace(encoding, config=of_config(PARTS[part]))


def is_unlabelled(encoding: Mapping[str, Any]) -> bool:
    """Whether rows of a part have no labels, given the section of its encoding."""
    return encoding.get("labelled") == "none"


def unlabelled_parts(encoding: EncodingSpec) -> tuple[str, ...]:
    """The parts of a corpus whose rows have no labels."""
    return tuple(part for number, part in enumerate(PARTS) if is_unlabelled(of_part(encoding, number).dump()))
