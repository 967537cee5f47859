"""A training that takes the learning rate which an earlier stage chose among trials."""

import json
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.job.load import load_job
from raydistill.job.record import stage_records
from raydistill.stages._base import RECORD, Input, ModelFacts
from raydistill.stages._tuning import tuned
from toys.capture import train_stage

RATES = tuple({"optimizer.learning_rate": rate, "seed": 1} for rate in (0.001, 0.003))


def inputs(*choices: dict[str, Any], folder: Path | None = None) -> dict[str, Input]:
    return {"rate": Input(ModelFacts({"": object()}, choices=choices), folder)}


def chosen(folder: Path, assignment: dict[str, Any]) -> Path:
    (folder / RECORD).write_text(json.dumps({"summary": {"assignment": assignment}}))
    return folder


def test_the_chosen_rate_takes_the_place_of_the_stages_own_and_the_seed_does_not(tmp_path: Path) -> None:
    config = train_stage(tmp_path, tuned_by="rate", seed=7).config
    found, values = tuned(config, inputs(*RATES, folder=chosen(tmp_path, RATES[1])))
    assert values == {"optimizer.learning_rate": 0.003}
    assert (found.optimizer.learning_rate, found.seed, found.tuned_by) == (0.003, 7, None)
    # Nothing else has changed.
    restored = found.model_copy(update={"optimizer": config.optimizer, "tuned_by": "rate"})
    assert restored.model_dump(mode="json") == config.model_dump(mode="json")


def test_before_the_choice_is_made_the_first_trial_stands_in(tmp_path: Path) -> None:
    found, _ = tuned(train_stage(tmp_path, tuned_by="rate").config, inputs(*RATES))
    assert found.optimizer.learning_rate == 0.001


@pytest.mark.parametrize(
    ("choices", "changes", "message"),
    [
        ([], {}, "tuned_by is 'rate'; name an earlier choose stage"),
        ([{"seed": 1}], {}, "tuned_by is 'rate', which chooses only among seeds; leave it out"),
        (
            [{"method": "kd"}],
            {},
            "tuned_by is 'rate', whose runs differ in method, 'kd'; only numbers can be taken over",
        ),
        (
            RATES,
            {"matrix": {"optimizer.learning_rate": [0.1, 0.2]}},
            "tuned_by is 'rate', which chooses optimizer.learning_rate, but matrix has it; leave one out",
        ),
        ([{"optimizer.learning_rate": 0.0}], {}, "optimizer.learning_rate"),
    ],
)
def test_the_plan_refuses_what_cannot_be_taken(
    tmp_path: Path, choices: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    stage = train_stage(tmp_path, tuned_by="rate", **changes)
    with pytest.raises(ValueError, match=message):
        stage.plan(ScalingConfig(), inputs(*choices))


def test_the_choice_is_a_part_of_the_hash_and_its_absence_is_none(tmp_path: Path) -> None:
    identity = train_stage(tmp_path).identity(ScalingConfig())
    assert "tuned_by" not in identity
    own = train_stage(tmp_path, tuned_by="rate")
    assert own.identity(ScalingConfig()) == {**identity, "tuned_by": "rate"}
    assert own.references()["tuned_by"] == "rate"


def test_another_trial_makes_another_run_of_what_is_tuned_by_it(tmp_path: Path) -> None:
    def hashes(*rates: float) -> dict[str, str]:
        stages = {
            "trial": _trained(matrix={"optimizer.learning_rate": list(rates)}),
            "evaluate": {
                "kind": "evaluate",
                "corpus": "corpus",
                "task": "classification",
                "models": {"trial": "trial"},
            },
            "rate": {"kind": "choose", "model": "trial", "evaluation": "evaluate"},
            "final": _trained(tuned_by="rate", matrix={"seed": [1, 2]}),
        }
        job = load_job({"name": "toy", "storage": str(tmp_path), "stages": stages})
        return {name: record.hash for name, record in stage_records(job).items()}

    first, second = hashes(0.1, 0.2), hashes(0.1, 0.3)
    assert first["final[seed=1]"] != second["final[seed=1]"]
    assert first["trial[optimizer.learning_rate=0.1]"] == second["trial[optimizer.learning_rate=0.1]"]


def _trained(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "corpus": "corpus",
        "task": "classification",
        "method": "finetune",
        "student": {"init": "layers", "checkpoint": "teacher", "layers": [0]},
        **changes,
    }
