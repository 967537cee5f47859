"""How fast a training goes, between two logging steps."""

import time

import torch
from torch import Tensor


class Pace:
    """Time, waiting and tokens since the last logging step, evaluations and checkpoints left out."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.seconds_per_step = 0.0
        self._start, self._steps = time.perf_counter(), 0
        self._tokens: list[Tensor] = []

    def add(self, tokens: Tensor) -> None:
        """Count one step with so many tokens over all ranks."""
        self._tokens.append(tokens)
        self._steps += 1

    def exclude(self, seconds: float) -> None:
        """Leave out time that was no training."""
        self._start += seconds

    def restart(self) -> tuple[float, float, float]:
        """Seconds, seconds waited for data and tokens since the last call; starts anew."""
        now = time.perf_counter()
        elapsed, waited = max(now - self._start, 1e-9), self.waited
        tokens = float(torch.stack(self._tokens).sum()) if self._tokens else 0.0
        self.seconds_per_step = elapsed / max(1, self._steps)
        self._start, self._steps, self.waited, self._tokens = now, 0, 0.0, []
        return elapsed, waited, tokens
