"""What is saved of a training besides weights and moments."""

import json
from dataclasses import asdict

from raydistill.training.selection import BestSoFar
from raydistill.training.worker import Position


def test_a_position_comes_back_from_plain_data():
    position = Position(
        step=7,
        tokens=99,
        metrics={"train/loss": 1.5},
        standing=BestSoFar(best_value=0.1, best_step=6, kept_step=None, num_without_improvement=2),
        further={"accuracy": BestSoFar(best_value=0.7, best_step=4, kept_step=4)},
        best_metrics={"eval/loss": 0.1},
        saved_bests=[None, 4, 6],
        stopped="early stopping",
    )
    assert Position.from_state(json.loads(json.dumps(asdict(position)))) == position


def test_a_position_of_before_there_were_further_best_students_is_read():
    state = asdict(Position(step=3))
    del state["further"]
    assert Position.from_state(state) == Position(step=3)
