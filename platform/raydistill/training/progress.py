"""How a training shows what it does: records travel through a small actor to lines or a bar on the driver."""

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Record:
    """Figures of one logging step."""

    step: int
    num_steps: int
    metrics: Mapping[str, float]
    eta_s: float
    note: str = ""
    """A sentence to show instead of figures; ``num_steps`` is 0 where it is of no step."""


@dataclass(frozen=True)
class Activity:
    """What a training is at, for its bar alone: optimizer steps, or something named that comes between them."""

    done: int = 0
    total: int | None = None
    """None where that is not known."""
    name: str = ""
    """Such as ``evaluation``; empty for optimizer steps."""


LOADING = Activity(name="models")


class Board:
    """Keeps records until the driver takes them; run as an actor."""

    def __init__(self) -> None:
        self._records: list[Record | Activity] = []

    def post(self, record: Record | Activity) -> None:
        """Add a record."""
        self._records.append(record)

    def take(self) -> list[Record | Activity]:
        """All records since the last call."""
        taken, self._records = self._records, []
        return taken


def start_board() -> Any:
    """An actor handle for a new board, which takes no CPU; it is on this node, so that others may be lost."""
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=node)(Board).remote()


class Activities:
    """Posts to a board what one rank does, no oftener than a bar is drawn; a board of None hears nothing."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._name: str | None = None
        self._next = 0.0

    def show(self, done: int = 0, total: int | None = None, *, name: str = "") -> None:
        """Tell how far it is; at once where it is at something else than before."""
        now = time.monotonic()
        if self._board is None or (name == self._name and now < self._next):
            return
        self._name, self._next = name, now + _POLL_SECONDS
        self._board.post.remote(Activity(done, total, name))


def line(record: Record) -> str:
    """A record as text: step/total, and its note or the terms, learning rate, tokens/s, data wait, ETA."""
    if record.note:
        return f"step {record.step}/{record.num_steps}  {record.note}" if record.num_steps else record.note
    terms = " ".join(
        f"{name.removeprefix('train/')} {value:.4f}"
        for name, value in record.metrics.items()
        if name.startswith(("train/", "validation/", "eval/"))
    )
    speed = record.metrics.get("speed/tokens_per_s")
    if speed is None:
        return f"step {record.step}/{record.num_steps}  {terms}"
    return (
        f"step {record.step}/{record.num_steps}  {terms}  lr {record.metrics['learning_rate']:.2e}  "
        f"{speed:,.0f} tokens/s  data wait {record.metrics['speed/data_wait_percent']:.1f}%  ETA {_time(record.eta_s)}"
    )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class Display:
    """Prints a board's records while it is entered: lines, and below them bars when the output is a terminal.

    One bar is of optimizer steps, a second one of what comes before and between them.
    ``parallel``: other trainings print too, so lines start with the title and there is no bar.
    """

    def __init__(self, board: Any, *, title: str, parallel: bool = False) -> None:
        self._board = board
        self._prefix = f"  {title}: " if parallel else "  "
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=parallel or not sys.stderr.isatty(),
        )
        self._title = title
        self._steps = self._bar.add_task(title, total=None)
        self._other: TaskID | None = None
        self._name = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Display":
        self._show_activity(Activity(name="start"))
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.stop()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._show()
        self._show()

    def _show(self) -> None:
        try:
            records: list[Record | Activity] = ray.get(self._board.take.remote(), timeout=5)
        except ray.exceptions.RayError:
            # The cluster is going down; the training's own error says why.
            return
        for record in records:
            if isinstance(record, Activity):
                self._show_activity(record)
                continue
            self._console.print(self._prefix + line(record), markup=False)
            if record.num_steps:
                self._bar.update(self._steps, completed=record.step, total=record.num_steps)

    def _show_activity(self, activity: Activity) -> None:
        if activity.name != self._name and self._other is not None:
            self._bar.remove_task(self._other)
            self._other = None
        self._name = activity.name
        if not activity.name:
            self._bar.update(self._steps, completed=activity.done, total=activity.total)
        elif self._other is None:
            self._other = self._bar.add_task(
                f"{self._title}: {activity.name}", completed=activity.done, total=activity.total
            )
        else:
            self._bar.update(self._other, completed=activity.done, total=activity.total)
