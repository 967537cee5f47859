"""Trials in one process: what they report, what they leave, and how they end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toys.search import write_job


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, since a trial's process group is kept for its life."""
    folder = tmp_path_factory.mktemp("trials")
    write_job(folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "toys.trial", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_trial_reports_each_evaluation_and_then_its_student(trials: dict[str, Any]) -> None:
    told = trials["first"]["told"]
    assert [(step, finished) for step, _, finished in told] == [(2, False), (4, False), (6, False), (8, True)]
    assert told[-1][1] < told[0][1]
    folder = Path(trials["first"]["folder"])
    assert (folder / "student" / "model.safetensors").is_file()
    assert not (folder / "checkpoints").exists()


def test_the_same_values_are_told_again_and_not_trained(trials: dict[str, Any]) -> None:
    assert trials["again"]["folder"] == trials["first"]["folder"]
    assert trials["again"]["told"] == trials["first"]["told"]


def test_a_trial_loads_its_job_once(trials: dict[str, Any]) -> None:
    assert trials["loads"] == len(["first", "again", "failed", "stopped"])


def test_a_loss_that_is_not_finite_is_the_reason_of_the_failure(trials: dict[str, Any]) -> None:
    assert trials["failed"]["ended"].startswith("TrialError: stages.distill: the term 'ce' is nan at step 2; lower")


def test_a_trial_that_the_scheduler_ends_leaves_no_student(trials: dict[str, Any]) -> None:
    assert [step for step, _, _ in trials["stopped"]["told"]] == [2, 4]
    assert trials["stopped"]["ended"].startswith("SystemExit")
    assert not (Path(trials["stopped"]["folder"]) / "student").exists()


def test_tracked_runs_are_part_of_the_campaign_and_end_as_the_trials_do(trials: dict[str, Any]) -> None:
    assert trials["parents"] == ["campaign/toy-search"]
    assert trials["status"][:4] == ["FINISHED", "FINISHED", "FAILED", "KILLED"]


def test_a_trial_goes_on_from_the_weights_moments_and_place_of_another(trials: dict[str, Any]) -> None:
    donor, same = trials["population"]["donor"], trials["population"]["same"]
    assert [told["step"] for told in donor["told"]] == [2, 4]
    assert [told["step"] for told in same["told"]] == [6, 8]
    # With the same values it is as if nothing had been stopped.
    undisturbed = [metric for step, metric, _ in trials["first"]["told"] if step > 4]
    assert [told["metric"] for told in same["told"]] == pytest.approx(undisturbed, rel=1e-6)


def test_a_copy_has_a_value_of_its_own(trials: dict[str, Any]) -> None:
    same, other = (trials["population"][name]["told"][-1] for name in ("same", "other"))
    assert other["metric"] != pytest.approx(same["metric"], rel=1e-4)
    assert [(part["step"], part["trial"]) for part in other["course"]] == [(0, 10), (4, 12)]
    assert [part["values"]["optimizer.learning_rate"] for part in other["course"]] == [0.02, 0.002]
    assert trials["copied_from"] | {"trial 11": "10", "trial 12": "10"} == trials["copied_from"]
    assert trials["copied_from"]["trial 10"] is None


def test_a_population_saves_its_states_where_it_exchanges_alone(trials: dict[str, Any]) -> None:
    found = trials["population"]
    assert [found[name]["saved_at"] for name in ("donor", "same", "other")] == [[4], [], []]
    # The clock of a scheduler stands still at the end, where nothing is left to decide.
    assert [told["clock"] for told in found["same"]["told"]] == [6, 6]
