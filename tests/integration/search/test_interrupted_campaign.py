"""A campaign that Ctrl-C interrupts, and one whose time is over."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.search.campaign import run_campaign
from raydistill.search.results import Trial, read_campaign
from toys.course import live
from toys.search import STAGE, make_search, write_job
from toys.terminal import start_raydistill

pytestmark = [pytest.mark.timeout(1500), pytest.mark.slow]

NUM_TRIALS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    write_job(folder)
    return folder


def write_space(folder: Path) -> Path:
    search = make_search(
        folder,
        name="toy-ctrl-c",
        overrides=live(folder),
        space={"method.temperature": [1.0, 2.0, 3.0]},
        scheduler="fifo",
        searcher="grid",
        budget={},
    )
    path = folder / "space.yaml"
    path.write_text(json.dumps(search.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    return path


def recorded(folder: Path) -> list[Trial]:
    stored = read_campaign(folder / "runs" / "toy-ctrl-c")
    return [] if stored is None else list(stored["trials"])


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> dict[str, Any]:
    """Ctrl-C, sent to the whole group as a terminal does, when a trial has ended and another runs."""
    output, errors = folder / "output", folder / "errors"
    process = start_raydistill("tune", str(write_space(folder)), output=output, errors=errors)
    end = time.monotonic() + 600
    while not any(trial.state == "finished" for trial in recorded(folder)):
        assert process.poll() is None, errors.read_text(errors="replace")[-3000:]
        assert time.monotonic() < end, "no trial ended"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    status = process.wait(timeout=120)
    return {"status": status, "errors": errors.read_text(), "trials": recorded(folder)}


def test_ctrl_c_ends_a_campaign_with_one_line_that_tells_how_to_go_on(interrupted: dict[str, Any]) -> None:
    assert interrupted["status"] == 130
    assert interrupted["errors"].splitlines() == [
        "interrupted; the same command with --resume goes on, and keeps the trials that ended"
    ]


def test_ctrl_c_fails_no_trial(interrupted: dict[str, Any]) -> None:
    assert {trial.state for trial in interrupted["trials"]} <= {"finished", "pending"}


def test_the_tracked_runs_of_what_ctrl_c_interrupts_end_as_killed(folder: Path, interrupted: dict[str, Any]) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("toy-ctrl-c").experiment_id])
    status = {run.info.run_name: run.info.status for run in runs}
    assert status["toy-ctrl-c"] == "KILLED"
    assert "RUNNING" not in status.values()


def test_resume_after_ctrl_c_makes_the_trials_that_are_missing(
    folder: Path, interrupted: dict[str, Any], ray_cluster: None
) -> None:
    kept = [trial for trial in interrupted["trials"] if trial.state == "finished"]
    assert 1 <= len(kept) < NUM_TRIALS
    space = str(folder / "space.yaml")
    refused = CliRunner().invoke(app, ["tune", space])
    assert refused.exit_code == 2
    assert "add --resume" in refused.stderr
    done = CliRunner().invoke(app, ["tune", space, "--resume"])
    assert done.exit_code == 0, done.output
    trials = recorded(folder)
    assert [trial.state for trial in trials] == ["finished"] * NUM_TRIALS
    assert [trials[trial.number] for trial in kept] == kept
    assert (folder / "runs" / "toy-ctrl-c" / "best.yaml").is_file()


def test_the_time_of_a_budget_ends_a_campaign_and_keeps_what_finished(folder: Path, ray_cluster: None) -> None:
    """The second trial would go on for hours."""
    for limit in ("20s", "80s", "320s"):
        search = make_search(
            folder,
            name=f"toy-{limit}",
            overrides={**live(folder), f"{STAGE}.training.num_epochs": 10**4},
            space={f"{STAGE}.training.max_steps": [4, 10**5]},
            scheduler="fifo",
            searcher="grid",
            budget={"time": limit},
        )
        began = time.monotonic()
        result = run_campaign(search, resume=False, echo=lambda line: None)
        seconds = time.monotonic() - began
        # A machine that is busy may need longer for the first.
        if result.trials[0].state == "finished" and len(result.trials) > 1 and result.trials[1].steps > 0:
            break
    first, second = result.trials
    assert (first.state, first.steps) == ("finished", 4)
    assert (second.state, second.reason) == ("stopped", f"budget.time, {limit}, was over")
    assert result.best == first
    assert seconds > float(limit[:-1])
    lines: list[str] = []
    assert run_campaign(search, resume=False, echo=lines.append) == result
    assert lines == [f"{search.name}: finished before, 2 trials ({result.folder})"]
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(search.name).experiment_id])
    status = {run.info.run_name: run.info.status for run in runs}
    assert status == {search.name: "FINISHED", "trial 0": "FINISHED", "trial 1": "KILLED"}
