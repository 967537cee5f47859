"""What the steps since the last logging step come to."""

from collections.abc import Mapping

from torch import Tensor


class Window:
    """Sums of this rank's terms, step by step, without waiting for a device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, totals: Mapping[str, Tensor]) -> None:
        """Count one step."""
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in totals.items()}
        self._steps += 1

    def means(self) -> dict[str, Tensor]:
        """This rank's part of the means over the steps since the last call; starts anew."""
        found = {name: value / self._steps for name, value in self._sums.items()}
        self._sums, self._steps = {}, 0
        return found
