"""A campaign's best job reads what the campaign and its base job made, where that is the same work."""

import json
from pathlib import Path
from typing import Any

import pytest

from raydistill.job.load import Job, load_job
from raydistill.job.record import StageRecord, job_folder, stage_records
from raydistill.search.best_job import best_job_data
from raydistill.search.campaign import trial_context
from raydistill.search.spaces import trial_job
from raydistill.search.trial import trial_records
from toys.search import STAGE, make_search, write_job

VALUES: dict[str, Any] = {"method.temperature": 2.0, "optimizer.learning_rate": 0.02}


@pytest.fixture
def campaign(tmp_path: Path) -> tuple[Path, dict[str, StageRecord]]:
    """The folder of a job, and the records of a trial as it finished."""
    write_job(tmp_path)
    context = trial_context(make_search(tmp_path))
    shared = stage_records(load_job(context.raw))["start"]
    shared.output.mkdir(parents=True)
    shared.write({}, seconds=1.0)
    records = trial_records(context, trial_job(context.raw, STAGE, VALUES), 3)
    records[STAGE].output.mkdir(parents=True)
    records[STAGE].write({"student": "there"}, seconds=1.0)
    return tmp_path, records


def best(folder: Path, **changes: Any) -> Job:
    return load_job(best_job_data(make_search(folder), {**VALUES, **changes}))


def test_stages_that_the_campaign_finished_are_read_where_they_are(campaign: tuple[Path, dict[str, StageRecord]]):
    folder, records = campaign
    job = best(folder)
    assert stage_records(job) == records
    assert all(record.finished for record in records.values())
    assert records[STAGE].output.parent == folder / "runs" / "toy-search" / "trials"
    assert records["start"].output.parent == folder / "runs" / "toy"


def test_other_values_are_other_work(campaign: tuple[Path, dict[str, StageRecord]]):
    folder, records = campaign
    job = best(folder, **{"method.temperature": 3.0})
    found = stage_records(job)
    assert found["start"] == records["start"]
    assert not found[STAGE].finished
    assert found[STAGE].output.parent == job_folder(job)


def test_a_folder_of_that_name_with_another_hash_inside_is_other_work(campaign: tuple[Path, dict[str, StageRecord]]):
    folder, records = campaign
    file = records[STAGE].output / "stage.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hash": "0" * 16}))
    assert stage_records(best(folder))[STAGE].output.parent == job_folder(best(folder))


def test_what_the_job_made_itself_comes_first(campaign: tuple[Path, dict[str, StageRecord]]):
    folder, records = campaign
    own = job_folder(best(folder)) / records[STAGE].output.name
    own.mkdir(parents=True)
    StageRecord(STAGE, records[STAGE].hash, own).write({}, seconds=1.0)
    assert stage_records(best(folder))[STAGE].output == own
