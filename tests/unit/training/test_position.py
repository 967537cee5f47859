"""What is saved of a training besides weights and moments."""

import json
from dataclasses import asdict

from raydistill.training.selection import Standing
from raydistill.training.worker import Position


def test_a_position_comes_back_from_plain_data():
    position = Position(
        step=7,
        tokens=99,
        metrics={"train/loss": 1.5},
        standing=Standing(best_value=0.1, best_step=6, kept_step=None, num_without_improvement=2),
        best_metrics={"eval/loss": 0.1},
        saved_bests=[None, 4, 6],
        stopped="early stopping",
    )
    assert Position.from_state(json.loads(json.dumps(asdict(position)))) == position
