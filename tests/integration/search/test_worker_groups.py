"""Trials of several workers, each a training of Ray Train that a trial starts and follows."""

import pytest

from raydistill.search.campaign import run_campaign
from raydistill.search.results import CampaignResult
from raydistill.training.history import read_history
from toys.course import live
from toys.search import make_search, write_job

pytestmark = [pytest.mark.timeout(1500), pytest.mark.long]

RATE = "optimizer.learning_rate"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> CampaignResult:
    """A rate that learns and one that does not, of which ASHA ends the second at its first evaluation."""
    folder = tmp_path_factory.mktemp("groups")
    write_job(folder)
    search = make_search(
        folder,
        name="toy-groups",
        overrides=live(folder),
        space={RATE: [0.02, 1e-9]},
        searcher="grid",
        budget={},
        resources={"num_workers": 2},
    )
    return run_campaign(search, resume=False, echo=lambda line: None)


def test_a_group_of_workers_trains_a_trial_to_its_end(result: CampaignResult) -> None:
    first = result.trials[0]
    assert (first.state, first.steps, result.best) == ("finished", 8, first)
    assert (first.folder / "student" / "model.safetensors").is_file()
    assert not (first.folder / "checkpoints").exists()
    trained = [line["step"] for line in read_history(first.folder) if "train/loss" in line]
    assert trained == list(range(1, 9))


def test_a_trial_of_a_group_tells_of_its_evaluations_and_the_scheduler_ends_it(result: CampaignResult) -> None:
    first, second = result.trials
    assert [line["step"] for line in first.reports] == [2, 4, 6]
    assert first.reports[0]["metric"] > first.reports[-1]["metric"]
    assert (second.state, second.reason) == ("stopped", "by scheduler asha")
    assert [line["step"] for line in second.reports] == [2]
