"""What a job's own tracked run has: what its file says, the figures of its tables, and the corpora it reads."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raydistill import cluster
from raydistill.data.corpus import Corpus
from raydistill.job.load import Job, load_job
from raydistill.job.record import StageRecord, job_folder, stage_records
from raydistill.job.run import JobResult, Runner, tables_as_metrics
from raydistill.stages import evaluate
from toys.capture import write_labelled
from toys.tracker import MemoryRun, MemoryTracker

ENTRIES = [
    {"model": "student", "reference": "distill", "assignment": {"seed": seed}, "figures": {"loss": float(seed)}}
    for seed in (1, 2)
]


def test_figures_are_means_over_seeds_by_stage_and_model() -> None:
    summaries = {"train": {"student": "folder"}, "evaluate": {"entries": ENTRIES}, "second": {"entries": ENTRIES[:1]}}
    assert tables_as_metrics(summaries) == {"evaluate/student/loss": 1.5, "second/student/loss": 1.0}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_labelled(tmp_path)
    stage = {
        "kind": "evaluate",
        "corpus": str(tmp_path / "corpus"),
        "task": "classification",
        "models": {"teacher": str(tmp_path / "teacher")},
        "max_rows": 16,
    }
    return load_job({"name": "toy", "seed": 3, "storage": str(tmp_path / "runs"), "stages": {"table": stage}})


@pytest.fixture
def run(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[MemoryTracker], None]:
    """Runs the job, whose evaluation finds nothing out, with a tracker."""
    monkeypatch.setattr(cluster, "capacity", lambda scaling: 1)
    monkeypatch.setattr(evaluate.Stage, "run", lambda self, context: {"entries": ENTRIES})
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text("")

    def run(tracker: MemoryTracker) -> None:
        Runner(job, stage_records(job), tracker, JobResult(job_folder(job)), lambda line: None).run(resolved)

    return run


@pytest.fixture
def runs(run: Callable[[MemoryTracker], None]) -> dict[str, MemoryRun]:
    """The tracked runs of the job."""
    tracker = MemoryTracker()
    run(tracker)
    return tracker.runs


def test_a_jobs_run_has_what_its_file_says_and_the_figures_of_its_tables(runs: dict[str, MemoryRun]) -> None:
    run = runs["toy/job"]
    assert run.params["seed"] == "3"
    assert run.params["table.max_rows"] == "16"
    assert "table.batch_size" not in run.params
    assert run.metrics == {"table/student/loss": [(0, 1.5)]}
    assert [(one["name"], one["context"]) for one in run.datasets] == [("corpus", "validation")]


def test_a_run_names_the_part_of_a_corpus_that_its_stage_reads(runs: dict[str, MemoryRun], tmp_path: Path) -> None:
    [key] = [key for key in runs if key.startswith("toy/table-")]
    [found] = runs[key].datasets
    corpus = Corpus.open(str(tmp_path / "corpus" / "validation"))
    assert (found["name"], found["context"], found["digest"]) == ("corpus", "validation", corpus.hash)
    assert found["profile"] == {"rows": 20, "tokens": corpus.manifest.tokens}


class SpoolingTracker(MemoryTracker):
    """Keeps how its runs stood, and whether the stage had its record, whenever somebody waits for the spool."""

    def __init__(self, record: StageRecord) -> None:
        super().__init__()
        self.record, self.waits = record, list[tuple[dict[str, str], bool]]()

    def wait_until_spooled(self, timeout_s: float = 60.0) -> None:
        self.waits.append(({run.name: run.status for run in self.runs.values()}, self.record.finished))


def test_a_stage_is_finished_once_all_that_its_run_tracked_is_spooled(
    job: Job, run: Callable[[MemoryTracker], None]
) -> None:
    record = stage_records(job)["table"]
    tracker = SpoolingTracker(record)
    run(tracker)
    assert tracker.waits == [({"toy": "RUNNING", "table": "FINISHED"}, False)]
    assert record.finished
