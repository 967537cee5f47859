"""The micro-batches of ``data/stream.py``, built in the consumer's process by a thread that works a little ahead.

For trainings too short for data tasks to be started: a search's trials of one worker.
"""

import queue
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

from raydistill.batch import Batch
from raydistill.data.stream import FeedSpec, check_batches, steps_of, work_items

_STEPS_AHEAD = 8
_POLL_S = 0.2


def feed_here(
    spec: FeedSpec, *, rank: int, world_size: int, start_step: int = 0, stop_step: int, **_options: Any
) -> Generator[list[Batch], None, None]:
    """As ``raydistill.data.stream.feed``, with one thread in place of data tasks, whose options are not used.

    Closing the iterator ends the thread. Raises ValueError if a micro-batch would have no row, and what building
    raises.
    """
    plan = spec.plan()
    check_batches(plan, spec, world_size=world_size)
    items = work_items(plan, spec, world_size=world_size, start_step=start_step, stop_step=stop_step)
    built: queue.Queue[Any] = queue.Queue(maxsize=_STEPS_AHEAD)
    closed = threading.Event()

    def put(value: object) -> None:
        while not closed.is_set():
            with suppress(queue.Full):
                built.put(value, timeout=_POLL_S)
                return

    def build() -> None:
        try:
            for item in items:
                for _, batches in steps_of(spec, item["start"], item["stop"], rank=rank, world_size=world_size):
                    put(batches)
                    if closed.is_set():
                        return
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=build, name="feed", daemon=True)
    thread.start()
    try:
        for _ in range(start_step, stop_step):
            found = built.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        closed.set()
        thread.join()
