"""Every job that comes with the package is valid as it is."""

from pathlib import Path

import pytest

from raydistill.job import files
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job


@pytest.mark.parametrize("name", files.names(files.JOBS))
def test_a_shipped_job_passes_its_preflight_and_says_what_it_is(name: str, tmp_path: Path) -> None:
    job = load_job({**files.read_job(name), "storage": str(tmp_path)})
    assert [preview.stage for preview in check_job(job)] == list(job.runs)
    assert len(files.description(files.JOBS, name)) > 20
