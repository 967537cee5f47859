"""Every search space that comes with the package loads, passes the preflight, and its samples make jobs."""

import random
from pathlib import Path

import pytest

from raydistill import cluster
from raydistill.job import files
from raydistill.search.preflight import check_search
from raydistill.search.spaces import job_data, load_search, trial_job

README = Path(__file__).parents[3] / "tune_spaces" / "README.md"
NAMES = files.names(files.SPACES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_space_passes_the_preflight_and_its_samples_make_jobs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "check_resources", lambda scaling: None)
    search = load_search(name, [f"storage={tmp_path}"])
    lines = check_search(search)
    [shared] = [line for line in lines["search"] if line.startswith("made once for all trials: ")]
    assert "nothing" not in shared
    rng = random.Random(7)
    for _ in range(5):
        values = {key: domain.sample(rng) for key, domain in search.domains.items()}
        assert trial_job(job_data(search), search.stage, values).config.stages[search.stage].kind == "train"


def test_the_spaces_that_are_promised_are_there_and_in_the_table():
    wanted = {"causal", "kd_temperature", "patient_kd", "muki", "dynamic_teacher", "dynamic_data", "dynamic_objective"}
    wanted |= {"pea_kd", "kd_lm"}
    assert wanted <= set(NAMES)
    table = README.read_text(encoding="utf-8")
    assert [name for name in wanted if f"| `{name}` |" not in table] == []
