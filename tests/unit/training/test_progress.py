"""What a training shows on the driver."""

import sys

import pytest
import ray

from raydistill.training.progress import Display, Record, line

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
