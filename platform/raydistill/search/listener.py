"""Who hears, in the driver, what becomes of a campaign's trials."""

from collections.abc import Mapping
from typing import Any

Values = dict[str, Any]
"""Dotted keys of a job, and what a trial gives them."""


class Listener:
    """Hears, in the driver, what becomes of trials; by their numbers."""

    def __reduce__(self) -> Any:
        # Ray Tune stores all that it is given, for a restart that is done otherwise here.
        return Listener, ()

    def __deepcopy__(self, memo: Any) -> "Listener":
        return self

    def suggested(self, number: int, values: Values, sample: Values) -> None:
        """A trial will have these values."""

    def started(self, number: int) -> None:
        """A trial has a process."""

    def reported(self, number: int, values: Values, report: Mapping[str, Any]) -> None:
        """A trial evaluated, or finished; ``values`` are those it has now, ``report`` is what a ``Reporter`` told."""

    def done(self, number: int) -> None:
        """A trial ended, by itself or not."""

    def failed(self, number: int) -> None:
        """A trial raised an error, or its process ended."""

    def over(self) -> None:
        """The trials are over, or given up: what is still heard of them afterwards is not theirs."""
