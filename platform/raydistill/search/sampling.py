"""Values that a campaign chooses without a library: draws at random, and all combinations of a grid."""

import itertools
import random
from typing import Any

from raydistill.search.config import SearchConfig
from raydistill.search.domains import Choice, Grid
from raydistill.search.listener import Values


def at_random(search: SearchConfig, number: int) -> Values:
    """Of seed and number alone, so that a resumed campaign goes on with what it would have drawn."""
    rng = random.Random(f"{search.seed}/{number}")
    return {key: domain.sample(rng) for key, domain in search.domains.items()}


def combinations(search: SearchConfig) -> list[tuple[Any, ...]]:
    """All combinations of the values of a grid, none for another searcher."""
    if search.searcher.name != "grid":
        return []
    listed = [domain.values for domain in search.domains.values() if isinstance(domain, Choice | Grid)]
    return list(itertools.product(*listed))
