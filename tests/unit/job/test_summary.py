from pathlib import Path
from types import SimpleNamespace

import pytest

from raydistill.config.sections import TrackingConfig
from raydistill.job.run import JobResult
from raydistill.job.summary import as_data, summary_lines

JOB = SimpleNamespace(name="toy", config=SimpleNamespace(tracking=TrackingConfig()))


@pytest.fixture
def result() -> JobResult:
    entries = [
        {"model": "teacher", "assignment": {}, "figures": {"loss": 2.0}, "reference": "teacher"},
        *(
            {"model": "student", "assignment": {"seed": seed}, "figures": {"loss": 2.0 + seed}, "reference": "distill"}
            for seed in (1, 2)
        ),
    ]
    summaries = {
        "evaluate": {"entries": entries},
        "report": {"report": "/runs/toy/report-1/report.html", "files": ["report.html"]},
        "register": {"uri": "models:/toy@candidate"},
    }
    return JobResult(
        Path("/runs/toy"), {name: Path(f"/runs/toy/{name}-1") for name in summaries}, summaries, ["report"]
    )


def test_the_end_of_a_job_shows_rows_over_seeds_the_report_and_the_model(result):
    text = "\n".join(summary_lines(JOB, result))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert cells == [["teacher", "1", "2.0000"], ["student", "2", "3.5000 ± 0.7071"]]
    assert "page      /runs/toy/report-1/report.html" in text
    assert "model     models:/toy@candidate" in text


def test_json_has_the_entries_and_their_groups(result):
    stages = as_data(JOB, result)["stages"]
    assert len(stages["evaluate"]["summary"]["entries"]) == 3
    assert [(row["name"], row["n"], row["figures"]["loss"]["mean"]) for row in stages["evaluate"]["groups"]] == [
        ("teacher", 1, 2.0),
        ("student", 2, 3.5),
    ]
    assert "groups" not in stages["register"]
    assert stages["report"]["skipped"] is True
