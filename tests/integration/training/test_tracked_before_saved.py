"""A training goes on from its checkpoint and does not track the steps before again, so these must be safe by then."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raydistill.tracking.tracker import NullTracker
from raydistill.training.in_process import train_here
from raydistill.training.trainer import checkpoints_of
from toys.training import make_spec, write_inputs

pytestmark = pytest.mark.usefixtures("one_rank")


class Recording(NullTracker):
    """Keeps in their order the steps that are tracked, and how many checkpoints there are when it is waited for."""

    def __init__(self, output: Path) -> None:
        self.output, self.calls = output, list[Any]()

    def log_metrics(self, key: str, metrics: Mapping[str, Any], step: int = 0) -> None:
        self.calls.append(step)

    def wait_until_spooled(self, timeout_s: float = 60.0) -> None:
        self.calls.append(f"{len(checkpoints_of(str(self.output)).finished())} checkpoints")


def test_a_checkpoint_is_written_once_what_was_tracked_before_it_is_spooled(tmp_path):
    write_inputs(tmp_path)
    (tmp_path / "run").mkdir()
    tracker = Recording(tmp_path / "run")
    spec = make_spec(tmp_path, training={"max_steps": 4, "save_steps": 2})
    train_here(spec, str(tmp_path / "run"), tracker, "run")
    first = tracker.calls.index("0 checkpoints")
    assert tracker.calls[:first][-2:] == [1, 2]
    second = tracker.calls.index("1 checkpoints")
    assert 3 in tracker.calls[first:second]
    assert 4 in tracker.calls[first:second]
