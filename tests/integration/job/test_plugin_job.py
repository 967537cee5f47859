"""A source, a method and a metric of somebody's own files: in data tasks, on two workers and in trials."""

import json
from pathlib import Path
from typing import Any

import pytest

from raydistill import discovery
from raydistill.commands.loading import load
from raydistill.job.run import JobResult, run_job
from raydistill.search.campaign import run_campaign
from raydistill.search.config import SearchConfig
from raydistill.search.results import CampaignResult
from raydistill.training.history import read_history
from toys.checkpoint import save_student
from toys.plugins import METHOD, METRIC, SOURCE, job_with_plugins, write_plugins

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[JobResult, CampaignResult]:
    folder = tmp_path_factory.mktemp("plugins")
    write_plugins(folder, scaled=METHOD, written=SOURCE, zeros=METRIC)
    checkpoint = str(save_student(folder / "student"))
    student = {"init": "checkpoint", "checkpoint": {"checkpoint": checkpoint, "head": "new"}}
    raw = job_with_plugins(checkpoint, student, storage=str(folder / "runs"))
    del raw["stages"]["plain"]
    raw["stages"]["distill"]["scaling"] = {"num_workers": 2}
    (folder / "job.yaml").write_text(json.dumps(raw), encoding="utf-8")
    result = run_job(load(str(folder / "job.yaml"), []), echo=lambda line: None)
    search = {
        "name": "search",
        "job": str(folder / "job.yaml"),
        "stage": "distill",
        "space": {"method.factor": [1.0, 2.0]},
        "searcher": "grid",
        "metric": "zeros",
        "mode": "min",
        "max_concurrent": 1,
        "resources": {"num_workers": 1},
    }
    campaign = run_campaign(SearchConfig.model_validate(search), resume=False, echo=lambda line: None)
    discovery.use([])
    return result, campaign


def first(folder: Path) -> dict[str, Any]:
    return next(line for line in read_history(folder) if "validation/loss" in line)


def test_two_workers_train_by_the_method_on_the_source_and_evaluate_by_the_metric(finished: Any) -> None:
    result, _ = finished
    told = first(result.outputs["distill"])
    assert told["validation/loss"] == pytest.approx(3 * told["validation/ce"], rel=1e-6)
    assert 0 <= told["eval/zeros"] <= 1
    assert result.summaries["data"]["texts"] == 60


def test_trials_train_by_the_method_with_the_values_that_they_try(finished: Any) -> None:
    _, campaign = finished
    assert [trial.state for trial in campaign.trials] == ["finished"] * 2
    losses = {trial.overrides["method.factor"]: first(trial.folder)["validation/loss"] for trial in campaign.trials}
    assert losses[2.0] == pytest.approx(2 * losses[1.0], rel=1e-6)
