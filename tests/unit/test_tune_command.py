import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydistill.cli import app
from raydistill.job import preflight
from raydistill.search import campaign
from raydistill.search.results import CampaignResult, Trial
from toys.space import write_space


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "check_job", lambda job: [])
    return write_space(tmp_path)


@pytest.fixture
def campaigns(monkeypatch, tmp_path):
    """Campaigns that were run, none of them for real: each as many trials as told, or an error."""
    started = []

    def outcome(*metrics, error=None):
        def run(search, *, resume, echo, finish=None):
            started.append((search, resume))
            echo("trial 0: started")
            if error is not None:
                raise error
            values = {"method.temperature": 2.0, "method.alpha": 0.5}
            trials = [
                Trial(number, values, "failed" if metric is None else "finished", metric, {}, 1.0, 40, "", Path("/t"))
                for number, metric in enumerate(metrics)
            ]
            best = max((one for one in trials if one.metric), key=lambda one: one.metric, default=None)
            return CampaignResult(tmp_path / "campaign", trials, best)

        monkeypatch.setattr(campaign, "run_campaign", run)
        return started

    return outcome


def test_a_campaign_is_run_and_its_best_is_told(space, campaigns):
    started = campaigns(0.5, 0.75)
    done = invoke("tune", space, "budget.trials=2", "--resume")
    assert done.exit_code == 0, done.output
    [(search, resume)] = started
    assert (search.num_trials, resume) == (2, True)
    assert "trial 0: started" in done.stdout
    assert "best: trial 1, accuracy 75.0% after 40 steps" in done.stdout
    assert "best.yaml" in done.stdout


def test_a_dry_run_checks_and_prints_the_plan(space, campaigns):
    started = campaigns()
    done = invoke("tune", space, "--dry-run")
    assert done.exit_code == 0
    assert "6 trials of stage distill, searcher random, scheduler fifo" in done.stdout
    assert started == []


def test_json_is_one_document_and_lines_go_beside_it(space, campaigns):
    campaigns(0.5, None)
    done = invoke("tune", space, "--json")
    found = json.loads(done.stdout)
    assert (found["campaign"], found["best"], found["metric"]) == ("toy-search", 0, "accuracy")
    assert [trial["state"] for trial in found["trials"]] == ["finished", "failed"]
    assert "trial 0: started" in done.stderr
    dry = json.loads(invoke("tune", space, "--json", "--dry-run").stdout)
    assert set(dry) == {"search", "space"}


def test_a_mistake_is_status_2_and_one_line(space):
    done = invoke("tune", space, "mode=min")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"{space}: mode is 'min', but the best accuracy is the greatest; write mode: max"
    ]


def test_ctrl_c_is_status_130_and_tells_how_to_go_on(space, campaigns):
    campaigns(error=KeyboardInterrupt())
    done = invoke("tune", space)
    assert done.exit_code == 130
    assert "--resume" in done.stderr


def test_a_campaign_without_a_finished_trial_is_status_1(space, campaigns):
    campaigns(None, None)
    done = invoke("tune", space)
    assert done.exit_code == 1
    assert "no trial finished" in done.stderr


def test_an_unexpected_error_is_status_1(space, campaigns):
    campaigns(error=RuntimeError("lost"))
    done = invoke("tune", space)
    assert done.exit_code == 1
    assert "RuntimeError: lost" in done.stderr


def test_validate_and_cp_take_spaces_too(space, tmp_path):
    done = invoke("validate", space, space.parent / "toy.yaml")
    assert done.exit_code == 0, done.output
    assert "made once for all trials: corpus, teacher" in done.stdout
    assert invoke("validate", space, "metric=acuracy").exit_code == 2
    copied = invoke("cp", "spaces/pea_kd", tmp_path / "mine.yaml")
    assert "raydistill tune" in copied.stdout
    assert "searcher" in (tmp_path / "mine.yaml").read_text()
    assert "stages:" in (invoke("cp", "pea_kd", tmp_path / "job.yaml"), (tmp_path / "job.yaml").read_text())[1]


def test_shipped_spaces_are_listed():
    found = json.loads(invoke("ls", "spaces", "--json").stdout)
    assert {"causal", "kd_temperature", "patient_kd", "muki", "pea_kd"} <= {one["name"] for one in found}
    assert all(len(one["summary"]) > 20 for one in found)
