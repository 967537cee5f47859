"""Several runs of one stage at a time, each in a thread of the driver."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait


def run_together(calls: Sequence[Callable[[], None]], *, limit: int) -> None:
    """Call each of ``calls``, at most ``limit`` at one time, in the caller's own thread where ``limit`` is 1.

    After the first that raises no other is started; those that run are waited for, then the error is raised.
    Ctrl-C is raised at once, and the threads, which are daemons, end with the process.
    """
    if limit == 1 or len(calls) < 2:
        for call in calls:
            call()
        return
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    for call in calls:
        waiting.put(call)
    failed = threading.Event()
    outcomes: list[Future[None]] = [Future() for _ in range(min(limit, len(calls)))]
    for outcome in outcomes:
        threading.Thread(target=_work, args=(waiting, failed, outcome), daemon=True).start()
    pending = set(outcomes)
    while pending:
        # With a time limit, so that the main thread notices Ctrl-C.
        _, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
    for outcome in outcomes:
        outcome.result()


def _work(waiting: "queue.SimpleQueue[Callable[[], None]]", failed: threading.Event, outcome: Future[None]) -> None:
    try:
        while not failed.is_set():
            try:
                call = waiting.get_nowait()
            except queue.Empty:
                break
            call()
    except BaseException as error:
        failed.set()
        outcome.set_exception(error)
    else:
        outcome.set_result(None)
