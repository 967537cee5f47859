"""The smallest search: two trials, one after the other, and the better one."""

from pathlib import Path

import pytest

from raydistill.job.load import load_job
from raydistill.job.run import run_job
from raydistill.search.best_job import best_job_data
from raydistill.search.campaign import run_campaign
from raydistill.search.results import CampaignResult, read_campaign
from raydistill.training.history import read_history
from toys.search import make_search, write_job

pytestmark = pytest.mark.core

RATES = [0.02, 1e-4]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Path, CampaignResult]:
    folder = tmp_path_factory.mktemp("two-trials")
    write_job(folder)
    search = make_search(
        folder,
        space={"optimizer.learning_rate": RATES},
        scheduler="fifo",
        searcher="grid",
        budget={"trials": 2},
    )
    return folder, run_campaign(search, resume=False, echo=lambda line: None)


def test_every_value_is_tried_and_the_one_that_learns_is_the_best(campaign: tuple[Path, CampaignResult]) -> None:
    _, result = campaign
    assert sorted(trial.overrides["optimizer.learning_rate"] for trial in result.trials) == sorted(RATES)
    assert [(trial.state, trial.steps) for trial in result.trials] == [("finished", 8)] * 2
    assert result.best.overrides["optimizer.learning_rate"] == 0.02
    assert result.best.metric == min(trial.metric for trial in result.trials if trial.metric is not None)


def test_the_record_has_what_each_trial_told_last(campaign: tuple[Path, CampaignResult]) -> None:
    folder, result = campaign
    stored = read_campaign(folder / "runs" / "toy-search")
    assert stored is not None
    assert stored["trials"] == result.trials
    for trial in result.trials:
        told = [line["validation/loss"] for line in read_history(trial.folder) if "validation/loss" in line]
        assert told[-1] == trial.metric


def test_the_best_job_trains_nothing_that_the_campaign_trained(campaign: tuple[Path, CampaignResult]) -> None:
    folder, result = campaign
    search = make_search(folder, space={"optimizer.learning_rate": RATES})
    done = run_job(load_job(best_job_data(search, result.best.overrides)), echo=lambda line: None)
    assert done.skipped == ["start", "distill"]
    assert done.outputs["distill"] == result.best.folder
