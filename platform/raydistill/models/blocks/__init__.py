"""How models run: in parts, packed (embed, run blocks i to j, a head), or whole on padded rows; one file a family.

A file's class ``Family`` says how its model types do it; ``generic`` is for all that no file names.
"""

from raydistill.models.blocks._base import NEEDS, Blocks
from raydistill.models.blocks._find import blocks_of, families, family_of, how_run, packed_families

__all__ = ["NEEDS", "Blocks", "blocks_of", "families", "family_of", "how_run", "packed_families"]
