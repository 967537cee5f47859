"""What a training posts for people to see, against what it keeps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydistill.tracking.tracker import NullTracker
from raydistill.training import progress
from raydistill.training.history import read_history
from raydistill.training.in_process import loop_here
from raydistill.training.progress import LOADING, Activity, Record
from toys.training import make_spec, write_inputs

pytestmark = pytest.mark.usefixtures("one_rank")
TERMS = ("train/loss", "train/ce")


def trained(folder: Path, *, logging_steps: int) -> tuple[list[dict[str, float]], list[Record | Activity]]:
    """The history of a training and what it posted."""
    posted: list[Record | Activity] = []
    output = folder / f"every-{logging_steps}"
    output.mkdir()
    board = SimpleNamespace(post=SimpleNamespace(remote=posted.append))
    spec = make_spec(folder, training={"max_steps": 7, "logging_steps": logging_steps})
    config = {"output": str(output), "tracker": NullTracker(), "run_key": "run", "board": board}
    loop_here(spec, config, parallel=1)
    return read_history(output), posted


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, one_rank: None) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("shown")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        # All that happens is posted, however fast.
        patch.setattr(progress, "_POLL_SECONDS", 0.0)
        return {every: trained(folder, logging_steps=every) for every in (1, 3)}


def logged(lines: list[dict[str, float]]) -> dict[int, dict[str, float]]:
    return {int(line["step"]): line for line in lines if "train/loss" in line}


def shown(posted: list[Record | Activity]) -> dict[int, Record]:
    return {each.step: each for each in posted if isinstance(each, Record) and "train/loss" in each.metrics}


def evaluated(total: int) -> list[Activity]:
    return [Activity(done, total, "evaluation") for done in range(1, total + 1)]


def test_shown_terms_are_means_over_the_steps_since_the_line_before(runs: dict[int, Any]) -> None:
    each, lines = logged(runs[1][0]), shown(runs[3][1])
    assert list(lines) == [3, 6, 7]
    for step, window in ((3, (1, 2, 3)), (6, (4, 5, 6)), (7, (7,))):
        for term in TERMS:
            mean = sum(each[number][term] for number in window) / len(window)
            assert lines[step].metrics[term] == pytest.approx(mean, rel=1e-12)


def test_kept_terms_are_those_of_the_step(runs: dict[int, Any]) -> None:
    each, kept = logged(runs[1][0]), logged(runs[3][0])
    assert {step: line["train/loss"] for step, line in kept.items()} == {
        step: each[step]["train/loss"] for step in (3, 6, 7)
    }


def test_models_and_every_batch_of_the_first_evaluation_come_before_the_first_step(runs: dict[int, Any]) -> None:
    posted = runs[1][1]
    first = next(place for place, each in enumerate(posted) if isinstance(each, Record))
    before = [each for each in posted[:first] if isinstance(each, Activity)]
    total = before[-1].total or 0
    assert total > 1
    assert before == [LOADING, Activity(name="validation rows"), *evaluated(total)]


def test_steps_follow_an_evaluation_on_their_own_bar(runs: dict[int, Any]) -> None:
    activities = [each for each in runs[1][1] if isinstance(each, Activity)]
    last = max(place for place, each in enumerate(activities) if each.name == "evaluation")
    steps = [each for each in activities if not each.name]
    assert [each.done for each in steps] == [0, *range(1, 8), 7]
    assert activities[last + 1] == Activity(7, 7)
