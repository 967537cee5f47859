import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from raydistill.job.load import load_job
from raydistill.search import report
from raydistill.search.best_job import best_job_data
from raydistill.search.results import CampaignResult, Trial, best_of
from raydistill.search.spaces import load_search
from toys.html_page import HtmlPage
from toys.space import write_space
from toys.tracker import MemoryTracker


def trial(number, temperature, state="finished", metric=0.5, reason=""):
    values = {"method.temperature": temperature, "method.alpha": 0.3}
    return Trial(number, values, state, metric, {}, 12.0, 40, reason, Path("/runs/t"))


@pytest.fixture
def search(tmp_path):
    return load_search(str(write_space(tmp_path)))


@pytest.fixture
def result(tmp_path):
    trials = [
        trial(0, 1.2345678901234567, metric=0.61),
        trial(1, 4.0, metric=0.72),
        trial(2, 6.0, "stopped", 0.9, "by scheduler asha"),
        trial(3, 7.0, "failed", None, "out of memory | on GPU"),
    ]
    return CampaignResult(tmp_path / "campaign", trials, best_of(trials, mode="max"))


def test_the_report_has_page_tables_and_the_best_job(search, result):
    files = report.write_report(search, result)
    assert [file.name for file in files] == ["campaign.html", "trials.md", "trials.csv", "best.yaml"]
    assert all(file.stat().st_size > 100 for file in files)
    page = HtmlPage(files[0].read_text())
    assert page.unclosed == []
    assert page.titles == ["Verdict", "What was asked", "Trials", "What the values do", "The best", "Make it again"]
    assert "Searched stage distill of job" in page.text
    assert "Trial 1 is the best of 4 (2 finished, 1 stopped, 1 failed): accuracy 72.0% after 40 steps," in page.text
    assert page.tables[0][4][-3] == "failed: out of memory | on GPU"
    assert page.orders[0][1][1] == "1.2345678901234567"
    assert f"raydistill run {result.folder / 'best.yaml'}" in page.text
    assert "name: toy-search-best" in page.text
    assert [one for one in page.addresses if one[0] != "#" and one != "data:,"] == ["trials.csv", "trials.md"]


def test_tables_have_every_trial_and_the_file_all_digits(search, result):
    report.write_report(search, result)
    table = (result.folder / "trials.md").read_text()
    assert table.count("\n") == 2 + 4
    assert "failed: out of memory \\| on GPU" in table
    rows = [*csv.DictReader((result.folder / "trials.csv").open())]
    assert rows[0]["method.temperature"] == "1.2345678901234567"
    assert [row["accuracy"] for row in rows] == ["0.61", "0.72", "0.9", ""]


def test_the_best_job_has_its_values_its_own_name_and_the_stages_that_it_needs(search, result):
    report.write_report(search, result)
    raw = yaml.safe_load((result.folder / "best.yaml").read_text())
    job = load_job(raw)
    assert job.name == "toy-search-best"
    assert [*raw["stages"]] == ["corpus", "teacher", "distill", "evaluate", "register"]
    assert job.config.stages["distill"].method.config.temperature == 4.0
    assert job.config.stages["register"].tags == {"team": "a", "campaign": "toy-search"}


def test_all_digits_of_a_value_reach_the_best_job(search, tmp_path):
    trials = [trial(0, 0.1 + 0.2)]
    report.write_report(search, CampaignResult(tmp_path, trials, trials[0]))
    raw = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert raw["stages"]["distill"]["method"]["temperature"] == 0.1 + 0.2
    assert raw == best_job_data(search, trials[0].overrides)


def test_a_campaign_in_which_nothing_finished_has_tables_alone(search, tmp_path):
    trials = [trial(0, 2.0, "failed", None, "no"), trial(1, 3.0, "pending", None)]
    result = CampaignResult(tmp_path, trials, None)
    assert [file.name for file in report.write_report(search, result)] == ["campaign.html", "trials.md", "trials.csv"]
    assert "No trial finished, of 2." in (tmp_path / "campaign.html").read_text()
    assert not any("best" in line for line in report.summary_lines(search, result, []))


def test_the_campaigns_run_has_the_files_and_the_best_values(search, result):
    tracker = MemoryTracker()
    tracker.start_run("campaign/toy")
    report.log_report(search, result, tracker, "campaign/toy")
    run = tracker.runs["campaign/toy"]
    assert len(run.artifacts) == 4
    assert run.metrics == {"best/accuracy": [(1, 0.72)]}
    assert run.tags == {"best.trial": "1", "best.method.temperature": "4", "best.method.alpha": "0.3"}


def test_the_last_lines_tell_the_best_and_where_everything_is(search, result):
    text = "\n".join(report.summary_lines(search, result, []))
    assert "best: trial 1, accuracy 72.0% after 40 steps" in text
    assert f"raydistill run {result.folder / 'best.yaml'}" in text
    assert "mlflow ui --backend-store-uri" in text


def test_a_best_trial_that_went_on_from_another_is_told_with_its_course(search, result):
    course = [
        {"step": 0, "trial": 2, "values": {"method.temperature": 3.0}},
        {"step": 20, "trial": 1, "values": {"method.temperature": 3.6}},
    ]
    copy = replace(result.trials[1], course=course)
    files = report.write_report(search, replace(result, trials=[result.trials[0], copy], best=copy))
    page, table, best = files[0].read_text(), files[1].read_text(), files[-1].read_text()
    assert "from step 0 as trial 2: method.temperature=3.0; from step 20 as trial 1: method.temperature=3.6" in page
    assert "finished: went on from trial 2 at step 20" in table
    assert "#   from step 20 as trial 1: method.temperature=3.6\n# It went on from other trials" in best
    assert "makes that student again" not in best
