"""Batches on their way to the device: those of the next step are copied while it computes this one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch

from raydistill.batch import Batch

Step = list[Batch]
"""The micro-batches of a rank in one optimizer step."""


class Lane(Protocol):
    """Copies beside what a device computes."""

    def copy(self, step: Step) -> Step:
        """The batches on the device, of which nothing may be used before ``join``."""

    def join(self, step: Step) -> None:
        """Let what is computed from now on wait for the copies."""


class CudaLane:
    """Copies from pinned memory on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)

    def copy(self, step: Step) -> Step:
        """See ``Lane``; the host does not wait."""
        with torch.cuda.stream(self._stream):
            # The allocator of pinned memory keeps what is copied until the copy is done.
            return [_pinned(batch).to(self._device) for batch in step]

    def join(self, step: Step) -> None:
        """See ``Lane``; the host does not wait."""
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for batch in step:
            for column in batch.columns.values():
                # Its memory belongs to the other stream, which must not give it away while this one reads it.
                column.record_stream(current)


def _pinned(batch: Batch) -> Batch:
    return replace(batch, columns={name: column.pin_memory() for name, column in batch.columns.items()})


def lane_of(device: torch.device) -> Lane | None:
    """What copies to a device beside its computing; None where nothing is gained by it."""
    return CudaLane(device) if device.type == "cuda" else None


class Ahead:
    """The steps of an iterator on a device, in their order; without a ``lane`` each is moved when it is taken."""

    def __init__(self, steps: Iterator[Step], device: torch.device, lane: Lane | None) -> None:
        self._steps, self._device, self._lane = steps, device, lane
        self._next: Step | None = None

    def prepare(self) -> None:
        """Begin to copy the next step, if there is one; called when the device has enough to do.

        Raises what the iterator raises.
        """
        if self._lane is None or self._next is not None:
            return
        found = next(self._steps, None)
        self._next = None if found is None else self._lane.copy(found)

    def take(self) -> Step:
        """The next step; raises StopIteration after the last, and what the iterator raises."""
        if self._lane is None:
            return [batch.to(self._device) for batch in next(self._steps)]
        self.prepare()
        if self._next is None:
            raise StopIteration
        taken, self._next = self._next, None
        self._lane.join(taken)
        return taken
