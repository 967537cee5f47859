"""Which of two values of a metric is the better one: a fact of the metric, that nobody chooses and nothing defaults."""

from collections.abc import Mapping

from raydistill.discovery import unknown_choice
from raydistill.user_error import UserError

Directions = Mapping[str, bool | None]
"""Of each figure by its name whether the greater value is the better one; None for a count, where neither is."""


def greater_is_better(
    metric: str,
    directions: Directions,
    *,
    stated: bool | None = None,
    key: str = "metric",
    stated_key: str = "greater_is_better",
) -> bool:
    """Whether the greater value of a metric is the better one.

    ``stated`` is what a user says of it under ``stated_key``, None for nothing. Raises ValueError, naming ``key``, for
    a metric that is none of these, for one without a direction of which nothing is said, and for a contradiction.
    """
    if metric not in directions:
        choices = [name for name, own in directions.items() if own is not None]
        raise UserError(unknown_choice(key, metric, choices))
    own = directions[metric]
    if own is None and stated is None:
        raise UserError(f"{key} is {metric!r}, for which neither more nor less is better; set {stated_key}, or another")
    if own is not None and stated not in (None, own):
        better = "greatest" if own else "least"
        raise UserError(f"{stated_key} is {stated}, but the best {metric} is the {better}; leave {stated_key} out")
    return bool(stated if own is None else own)
