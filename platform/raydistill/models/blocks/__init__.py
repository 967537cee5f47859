"""A model in parts: embed, run blocks i to j, the vocabulary head; one file a model family.

A file's name is the family's ``model_type`` in transformers, and its class ``Family`` says how the family does it.
"""

from raydistill.models.blocks._base import Blocks
from raydistill.models.blocks._find import blocks_of, families, family_of

__all__ = ["Blocks", "blocks_of", "families", "family_of"]
