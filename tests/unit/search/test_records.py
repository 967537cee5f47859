"""What is written down of trials that end in their several ways."""

from pathlib import Path
from typing import Any

import pytest

from raydistill.search import records
from raydistill.search.config import SearchConfig
from raydistill.search.records import CampaignRecord, failure_path
from raydistill.search.results import TrialEvent, read_campaign


class Clock:
    """Stands for the time module."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(records, "time", clock)
    return clock


def make_records(folder: Path, **changes: Any) -> CampaignRecord:
    base = {"name": "toy", "job": "demo", "stage": "distill", "metric": "loss", "mode": "min"}
    space = {"method.temperature": {"uniform": [1, 4]}}
    budget = {"trials": 4, "time": "60s"}
    search = SearchConfig.model_validate({**base, "space": space, "budget": budget, **changes})
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    found = CampaignRecord.open(search, folder, identity="one")
    found.begin(lambda line: None)
    return found


def begin(found: CampaignRecord, *numbers: int) -> None:
    for number in numbers:
        values = {"method.temperature": float(number)}
        found.suggested(number, values, values)
        found.started(number)


def event(number: int, values: Any, step: int, *, finished: bool = False, course: Any = ()) -> TrialEvent:
    return TrialEvent(number, values, step, 0.5, {}, Path("out"), course, finished)


def states(folder: Path) -> list[tuple[str, str]]:
    stored = read_campaign(folder)
    assert stored is not None
    return [(trial.state, trial.reason) for trial in stored["trials"]]


def test_a_trial_that_ends_early_was_ended_by_the_scheduler_or_for_the_time(tmp_path: Path, clock: Clock) -> None:
    found = make_records(tmp_path)
    begin(found, 0, 1)
    found.done(0)
    clock.now += 60
    found.done(1)
    assert states(tmp_path) == [("stopped", "by scheduler fifo"), ("stopped", "budget.time, 60s, was over")]
    assert make_records(tmp_path).is_complete


def test_a_trial_that_the_time_ends_before_it_began_waits_for_a_larger_budget(tmp_path: Path, clock: Clock) -> None:
    found = make_records(tmp_path)
    found.suggested(0, {}, {})
    clock.now += 60
    found.done(0)
    found.close()
    assert states(tmp_path) == [("pending", "")]
    assert make_records(tmp_path).is_complete
    assert not make_records(tmp_path, budget={"trials": 4, "time": "90s"}).is_complete


def test_what_is_heard_after_the_end_is_not_written_down(tmp_path: Path, clock: Clock) -> None:
    found = make_records(tmp_path)
    begin(found, 0, 1)
    found.reported(event(0, {}, 8, finished=True))
    found.over()
    found.failed(1)
    found.done(0)
    found.reported(event(1, {}, 8, finished=True))
    begin(found, 2)
    assert states(tmp_path) == [("finished", ""), ("pending", "")]


def test_a_failed_trial_has_its_reason_or_is_lost(tmp_path: Path, clock: Clock) -> None:
    found = make_records(tmp_path)
    begin(found, 0, 1)
    failure_path(tmp_path, 0).write_text("the loss is nan", encoding="utf-8")
    found.failed(0)
    found.failed(1)
    assert states(tmp_path) == [("failed", "the loss is nan"), ("failed", "its process ended; see its memory")]
    assert found.lost == {1}


def test_a_trial_that_goes_on_from_another_is_told_once(tmp_path: Path, clock: Clock) -> None:
    found, lines = make_records(tmp_path), []
    found.begin(lines.append)
    begin(found, 0)
    own = {"step": 0, "trial": 0, "values": {"a": 1}}
    copied = [{"step": 0, "trial": 3, "values": {"a": 2}}, {"step": 4, "trial": 0, "values": {"a": 3}}]
    found.reported(event(0, {"a": 1}, 2, course=[own]))
    found.reported(event(0, {"a": 3}, 6, course=copied))
    found.reported(event(0, {"a": 3}, 8, course=copied))
    assert lines[1:] == ["trial 0: went on from trial 3 at step 4 (a=3)"]
    stored = read_campaign(tmp_path)
    assert stored is not None
    assert stored["trials"][0].course == copied


def test_an_interrupted_trial_begins_with_the_values_that_it_is_given_now(tmp_path: Path, clock: Clock) -> None:
    found = make_records(tmp_path)
    begin(found, 0)
    found.reported(event(0, {"method.temperature": 3.6}, 2))
    again = make_records(tmp_path)
    again.suggested(0, {"method.temperature": 3.0}, {"method.temperature": 3.0})
    assert again.trials[0].overrides == {"method.temperature": 3.0}
    assert again.trials[0].reports == []
