"""What becomes of a trial's record with each of its events."""

from dataclasses import replace
from pathlib import Path

from raydistill.search.results import Trial, TrialEvent

WAITING = Trial(3, {"a": 1}, "pending", None, {}, 0.0, 0, "", Path("trials"), sample={"a": 0})
FIRST = TrialEvent(3, {"a": 1}, 2, 0.7, {"validation/loss": 0.7}, Path("out"))
LAST = replace(FIRST, step=4, metric=0.5, metrics={"validation/loss": 0.5}, finished=True)


def test_an_evaluation_is_kept_and_leaves_the_trial_pending() -> None:
    trial = WAITING.after(FIRST, seconds=1.5)
    assert (trial.state, trial.metric, trial.steps, trial.seconds) == ("pending", 0.7, 2, 1.5)
    assert trial.reports == [{"validation/loss": 0.7, "metric": 0.7, "step": 2.0}]
    assert (trial.folder, trial.sample) == (Path("out"), {"a": 0})


def test_the_last_event_finishes_the_trial_and_is_no_report_to_the_scheduler() -> None:
    trial = WAITING.after(FIRST, seconds=1.0).after(LAST, seconds=2.0)
    assert (trial.state, trial.metric, trial.metrics) == ("finished", 0.5, {"validation/loss": 0.5})
    assert [report["step"] for report in trial.reports] == [2]


def test_a_trial_of_an_earlier_run_has_the_events_that_it_had_then() -> None:
    finished = WAITING.after(FIRST, seconds=1.0).after(LAST, seconds=2.0)
    assert finished.events() == [FIRST, LAST]
    stopped = replace(WAITING.after(FIRST, seconds=1.0), state="stopped")
    assert [event.finished for event in stopped.events()] == [False]
