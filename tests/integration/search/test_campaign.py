"""A campaign that is killed, goes on and finds the best configuration, which a job then makes again."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from safetensors.torch import load_file

from raydistill.data.stored_outputs import TEACHER_ROWS
from raydistill.job.load import load_job
from raydistill.job.run import JobResult, run_job
from raydistill.search.best_job import best_job_data
from raydistill.search.campaign import run_campaign
from raydistill.search.results import CampaignResult, Trial, read_campaign
from raydistill.training.history import read_history
from toys.search import STAGE, make_search, write_job

# The first test waits for the campaign, which a busy machine draws out.
pytestmark = pytest.mark.timeout(1500)

NUM_TRIALS = 6
STORED_ROWS = 110


def kill_in_mid_campaign(folder: Path) -> list[Trial]:
    """Start the campaign as a driver of its own and kill it when a trial has ended; returns what it had recorded."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("RAY_ADDRESS", None)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "toys.search", str(folder)],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    end = time.monotonic() + 600
    while True:
        assert process.poll() is None, (folder / "log").read_text(errors="replace")[-3000:]
        assert time.monotonic() < end, "no trial ended"
        stored = read_campaign(folder / "runs" / "toy-search")
        if stored is not None and any(trial.state == "finished" for trial in stored["trials"]):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = read_campaign(folder / "runs" / "toy-search")
    assert stored is not None
    trials: list[Trial] = stored["trials"]
    return trials


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("campaign")
    write_job(folder)
    killed = kill_in_mid_campaign(folder)
    with pytest.raises(ValueError, match="add --resume"):
        run_campaign(make_search(folder), resume=False, echo=lambda line: None)
    lines: list[str] = []
    result = run_campaign(make_search(folder), resume=True, echo=lines.append)
    return {"folder": folder, "killed": killed, "result": result, "lines": lines}


def test_a_killed_campaign_goes_on_and_keeps_the_trials_that_had_ended(campaign: dict[str, Any]) -> None:
    result: CampaignResult = campaign["result"]
    kept = [trial for trial in campaign["killed"] if trial.state in ("finished", "failed", "stopped")]
    assert 1 <= len(kept) < NUM_TRIALS
    assert [trial.number for trial in result.trials] == list(range(NUM_TRIALS))
    assert all(trial.state != "pending" for trial in result.trials)
    assert [result.trials[trial.number] for trial in kept] == kept
    started = {line.split(":")[0] for line in campaign["lines"] if "started (" in line and line.startswith("trial")}
    assert not started & {f"trial {trial.number}" for trial in kept}


def test_a_trial_that_fails_is_recorded_with_its_reason_and_others_go_on(campaign: dict[str, Any]) -> None:
    trials: list[Trial] = campaign["result"].trials
    failed = [trial for trial in trials if trial.overrides["optimizer.learning_rate"] > 1]
    assert failed
    for trial in failed:
        assert trial.state == "failed"
        assert trial.reason.startswith("stages.distill: the term ")
        assert "lower optimizer.learning_rate" in trial.reason
    assert any(trial.state == "finished" for trial in trials[failed[0].number + 1 :])


def test_the_scheduler_stops_trials_at_a_rung_and_the_best_one_finishes(campaign: dict[str, Any]) -> None:
    trials: list[Trial] = campaign["result"].trials
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert stopped
    assert all(0 < trial.steps < 8 and trial.reason == "by scheduler asha" for trial in stopped)
    best: Trial = campaign["result"].best
    finished = [trial for trial in trials if trial.state == "finished"]
    assert best.metric == min(trial.metric for trial in finished if trial.metric is not None)
    assert all(trial.steps == 8 for trial in finished)


def test_all_trials_share_one_pass_of_the_teacher_and_what_lies_before_them(campaign: dict[str, Any]) -> None:
    histories = [read_history(trial.folder) for trial in campaign["result"].trials]
    counts = [[line[TEACHER_ROWS] for line in history if TEACHER_ROWS in line] for history in histories]
    # The trial that stored what the teacher says has no line of it where it failed before its first.
    assert {rows for count in counts for rows in count} <= {0, STORED_ROWS}
    assert sum(STORED_ROWS in count for count in counts) <= 1
    assert len(list((campaign["folder"] / "runs" / "toy").glob("start-*/stage.json"))) == 1


def test_trials_are_nested_runs_of_the_campaign(campaign: dict[str, Any]) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{campaign['folder'] / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toy-search")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"toy-search", "start", *(f"trial {number}" for number in range(NUM_TRIALS))}
    parent = runs["toy-search"].info.run_id
    best: Trial = campaign["result"].best
    run = runs[f"trial {best.number}"]
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["campaign"] == "toy-search"
    assert float(run.data.params["method.temperature"]) == best.overrides["method.temperature"]
    assert run.data.metrics["validation/loss"] == best.metric


def test_a_finished_campaign_runs_nothing_again(campaign: dict[str, Any]) -> None:
    again = run_campaign(make_search(campaign["folder"]), resume=False, echo=lambda line: None)
    assert again == campaign["result"]


def test_another_search_of_the_same_name_is_refused(campaign: dict[str, Any]) -> None:
    changed = make_search(campaign["folder"], seed=9)
    with pytest.raises(ValueError, match="has trials of another search; give another name"):
        run_campaign(changed, resume=True, echo=lambda line: None)


@pytest.fixture(scope="module")
def again(campaign: dict[str, Any]) -> tuple[JobResult, Trial]:
    """The best trial's job, by a group of workers that Ray Train starts."""
    best: Trial = campaign["result"].best
    return run_job(
        load_job(best_job_data(make_search(campaign["folder"]), best.overrides)), echo=lambda line: None
    ), best


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in read_history(folder) if "train/loss" in line]


def test_the_job_of_the_best_trial_gives_its_losses_and_its_metric(again: tuple[JobResult, Trial]) -> None:
    result, best = again
    assert len(losses(best.folder)) == 8
    assert losses(result.outputs[STAGE]) == pytest.approx(losses(best.folder), rel=1e-6, abs=1e-6)
    assert result.summaries[STAGE]["metrics"]["validation/loss"] == pytest.approx(best.metric, rel=1e-6)
    trained, searched = (
        load_file(path / "student" / "model.safetensors") for path in (result.outputs[STAGE], best.folder)
    )
    assert all((trained[name] - tensor).abs().max() < 1e-5 for name, tensor in searched.items())


@pytest.mark.parametrize("searcher", ["optuna", "hyperopt"])
def test_searchers_of_libraries_run_trials(campaign: dict[str, Any], searcher: str) -> None:
    search = make_search(
        campaign["folder"],
        name=f"toy-{searcher}",
        searcher={"name": searcher, "num_startup_trials": 1},
        scheduler="median" if searcher == "optuna" else "fifo",
        space={"method.temperature": {"uniform": [1, 4]}, "method": [{"name": "kd", "alpha": 0.5}, "kd"]},
        budget={"trials": 2},
    )
    # The key that the other replaces is refused by the check of a search, not here.
    search = search.model_copy(update={"space": {"method": search.space["method"]}})
    result = run_campaign(search, resume=False, echo=lambda line: None)
    assert [trial.state for trial in result.trials] == ["finished"] * 2
    assert replace(result.trials[0], number=1) != result.trials[1]
