"""What a training shows on the driver."""

import sys
from types import SimpleNamespace

import pytest
import ray

from raydistill.training.progress import Activities, Activity, Display, Record, line

LOGGED = Record(
    20,
    100,
    {"train/loss": 1.5, "learning_rate": 1e-4, "speed/tokens_per_s": 12345.6, "speed/data_wait_percent": 0.25},
    3700,
)


class Board:
    """Stands where the actor handle of a board stands; every record is taken once."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.take = self

    def remote(self) -> list[Record]:
        """What the actor's ``take`` would return."""
        taken, self.records = self.records, []
        return taken


def test_a_logging_step_shows_terms_rate_speed_and_time_left():
    assert line(LOGGED) == "step 20/100  loss 1.5000  lr 1.00e-04  12,346 tokens/s  data wait 0.2%  ETA 1:01:40"


def test_an_evaluation_shows_the_methods_loss_and_the_tasks_metrics():
    record = Record(20, 100, {"validation/loss": 2.0, "eval/accuracy": 0.25}, 0.0)
    assert line(record) == "step 20/100  validation/loss 2.0000 eval/accuracy 0.2500"


def test_a_note_of_no_step_is_shown_alone():
    assert line(Record(0, 0, {}, 0.0, note="worker 1 is lost")) == "worker 1 is lost"


def test_a_note_is_shown_instead_of_figures():
    assert line(Record(20, 100, {}, 0.0, note="early stopping")) == "step 20/100  early stopping"


@pytest.mark.parametrize(("parallel", "start"), [(False, "  step 20/100"), (True, "  distill[seed=1]: step 20/100")])
def test_lines_of_parallel_trainings_start_with_their_names(monkeypatch, capsys, parallel, start):
    monkeypatch.setattr(ray, "get", lambda value, timeout: value)
    with Display(Board([LOGGED]), title="distill[seed=1]", parallel=parallel):
        pass
    assert capsys.readouterr().err.startswith(start)


@pytest.mark.parametrize(("parallel", "disabled"), [(False, False), (True, True)])
def test_parallel_trainings_have_no_bar_on_a_terminal(monkeypatch, parallel, disabled):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert Display(Board([]), title="distill", parallel=parallel)._bar.disable is disabled


def bars(display: Display) -> dict[str, tuple[float, float | None]]:
    """How far each bar is, by its text."""
    return {task.description: (task.completed, task.total) for task in display._bar.tasks}


def test_a_second_bar_shows_what_comes_before_and_between_steps(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda value, timeout: value)
    board = Board([])
    display = Display(board, title="distill")
    course = []
    for records in (
        [Activity(name="models")],
        [Activity(3, 10, "evaluation")],
        [Activity(7, 10, "evaluation")],
        [Activity(1, 100)],
        [LOGGED, Activity(25, 100)],
    ):
        board.records = records
        display._show()
        course.append(bars(display))
    assert course == [
        {"distill": (0, None), "distill: models": (0, None)},
        {"distill": (0, None), "distill: evaluation": (3, 10)},
        {"distill": (0, None), "distill: evaluation": (7, 10)},
        {"distill": (1, 100)},
        {"distill": (25, 100)},
    ]


def test_before_anything_is_known_a_bar_tells_of_the_start(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda value, timeout: value)
    with Display(Board([]), title="distill") as display:
        assert bars(display) == {"distill": (0, None), "distill: start": (0, None)}


def test_activities_are_posted_when_they_change_and_else_seldom(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("raydistill.training.progress.time.monotonic", lambda: now[0])
    posted: list[Activity] = []
    activities = Activities(SimpleNamespace(post=SimpleNamespace(remote=posted.append)))
    for number in range(1, 101):
        now[0] += 0.02
        activities.show(number, 100, name="evaluation")
    activities.show(1, 50)
    assert [each.done for each in posted[:-1]] == [1, 26, 51, 76]
    assert posted[-1] == Activity(1, 50)


def test_ranks_without_a_board_post_nothing():
    Activities(None).show(1, 2)
