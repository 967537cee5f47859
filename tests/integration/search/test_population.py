"""Population-based training: a trial goes on from the state of another, with values of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from safetensors.torch import load_file

from raydistill.search.campaign import run_campaign
from raydistill.search.results import Trial
from toys.course import PARALLEL, live
from toys.search import make_search, write_job

pytestmark = pytest.mark.timeout(1500)

RATE = "optimizer.learning_rate"
NUM_TRIALS, LAST_STEP = 4, 8


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Any]:
    """Learning rates of which some move nothing, two trials at a time, exchanged at each evaluation."""
    folder = tmp_path_factory.mktemp("population")
    write_job(folder)
    search = make_search(
        folder,
        name="toy-population",
        overrides=live(folder),
        space={RATE: {"loguniform": [1e-6, 0.02]}},
        scheduler={"name": "pbt", "quantile": 0.5},
        budget={"trials": NUM_TRIALS},
        max_concurrent=PARALLEL,
    )
    lines: list[str] = []
    return {"folder": folder, "trials": run_campaign(search, resume=False, echo=lines.append).trials, "lines": lines}


@pytest.fixture(scope="module")
def copy(population: dict[str, Any]) -> Trial:
    """The trial with the longest course."""
    found: Trial = max(population["trials"], key=lambda trial: len(trial.course))
    assert len(found.course) > 1, "no trial was copied"
    return found


def test_all_trials_of_a_population_train_to_their_end(population: dict[str, Any]) -> None:
    assert [(trial.state, trial.steps) for trial in population["trials"]] == [("finished", LAST_STEP)] * NUM_TRIALS


def test_a_copy_has_another_value_than_the_trial_that_it_goes_on_from(population: dict[str, Any], copy: Trial) -> None:
    before, last = copy.course[-2:]
    assert last["trial"] == copy.number != before["trial"]
    assert last["values"] == copy.overrides
    assert 1e-6 <= last["values"][RATE] <= 0.02
    assert last["values"][RATE] != before["values"][RATE]
    assert 0 < last["step"] < LAST_STEP
    told = f"trial {copy.number}: went on from trial {before['trial']} at step {last['step']} ({RATE}="
    assert any(line.startswith(told) for line in population["lines"])


def test_a_copy_is_what_its_course_gives_without_ray(population: dict[str, Any], copy: Trial) -> None:
    """So it has the weights, the moments and the place in the data of the trial before it, and its own rate."""
    folder: Path = population["folder"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "toys.course", str(folder), json.dumps(copy.course)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    repeated = json.loads(done.stdout.splitlines()[-1])
    assert repeated["metric"] == pytest.approx(copy.metric, rel=1e-6)
    weights, expected = (
        load_file(path / "model.safetensors") for path in (copy.folder / "student", Path(repeated["student"]))
    )
    assert all((weights[name] - tensor).abs().max() < 1e-6 for name, tensor in expected.items())


def test_the_tracked_run_of_a_copy_names_the_other_trial(population: dict[str, Any], copy: Trial) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{population['folder'] / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toy-population")
    [run] = client.search_runs([experiment.experiment_id], f"attributes.run_name = 'trial {copy.number}'")
    assert run.data.tags["copied_from"] == str(copy.course[-2]["trial"])
    assert run.info.status == "FINISHED"


def test_no_state_of_a_trial_is_left(population: dict[str, Any]) -> None:
    campaign = population["folder"] / "runs" / "toy-population"
    assert not (campaign / ".tune").exists()
    assert not list(campaign.glob("trials/*/checkpoints"))
