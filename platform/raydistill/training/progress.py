"""How a training shows what it does: records travel through a small actor to lines or a bar on the driver."""

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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


class Board:
    """Keeps records until the driver takes them; run as an actor."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def post(self, record: Record) -> None:
        """Add a record."""
        self._records.append(record)

    def take(self) -> list[Record]:
        """All records since the last call."""
        taken, self._records = self._records, []
        return taken


def start_board() -> Any:
    """An actor handle for a new board, which takes no CPU; it is on this node, so that others may be lost."""
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=node)(Board).remote()


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
    """Prints a board's records while it is entered: lines, and below them a bar when the output is a terminal.

    ``parallel``: other trainings print too, so lines start with the title and there is no bar.
    """

    def __init__(self, board: Any, *, title: str, parallel: bool = False) -> None:
        self._board = board
        self._prefix = f"  {title}: " if parallel else "  "
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=parallel or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(title, total=None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Display":
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
            records: list[Record] = ray.get(self._board.take.remote(), timeout=5)
        except ray.exceptions.RayError:
            # The cluster is going down; the training's own error says why.
            return
        for record in records:
            self._console.print(self._prefix + line(record), markup=False)
            if record.num_steps:
                self._bar.update(self._task, completed=record.step, total=record.num_steps)
