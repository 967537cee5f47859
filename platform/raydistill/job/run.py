"""Run a job: each unfinished stage in order, tracked, with finished ones skipped."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raydistill import cluster
from raydistill.job.load import Job
from raydistill.job.record import StageRecord, job_folder, stage_records
from raydistill.stages._base import Stage, StageContext
from raydistill.tracking.provenance import environment
from raydistill.tracking.tracker import Tracker, start_tracker

Echo = Callable[[str], None]
_JOB_KEY = "job"


@dataclass
class JobResult:
    """What a finished job left: its folder, each stage's output and summary, and which stages were skipped."""

    folder: Path
    outputs: dict[str, Path] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def run_job(job: Job, *, echo: Echo) -> JobResult:
    """Run what is not finished yet and return where everything is.

    ``echo`` gets one line for each stage that starts, ends or is skipped. A cluster is started, or joined, only
    when there is something to run. An interrupted stage continues in its own folder when the job runs again.
    """
    records = stage_records(job)
    result = JobResult(job_folder(job))
    result.folder.mkdir(parents=True, exist_ok=True)
    (result.folder / "resolved.yaml").write_text(yaml.safe_dump(job.dump(), sort_keys=False), encoding="utf-8")
    if all(record.finished for record in records.values()):
        for name, stage in job.stages.items():
            _skip(result, stage, records[name], echo)
        return result
    with cluster.connection([job.scaling(stage) for stage in job.stages.values()]):
        tracker = start_tracker(job.config.tracking, folder=str(result.folder.parent), experiment=job.name)
        try:
            tracker.ready()
            _run_stages(job, records, tracker, result, echo)
        finally:
            tracker.close()
    return result


def _run_stages(job: Job, records: dict[str, StageRecord], tracker: Tracker, result: JobResult, echo: Echo) -> None:
    tracker.start_run(_run_key(job), name=job.name, tags={"job": job.name, **environment()}, resume=True)
    tracker.log_artifact(_run_key(job), str(result.folder / "resolved.yaml"))
    status = "FAILED"
    try:
        for name, stage in job.stages.items():
            if records[name].finished:
                _skip(result, stage, records[name], echo)
            else:
                _run_stage(job, stage, records[name], tracker, result, echo)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end_run(_run_key(job), status)


def _run_key(job: Job) -> str:
    return f"{job.name}/{_JOB_KEY}"


def _skip(result: JobResult, stage: Stage, record: StageRecord, echo: Echo) -> None:
    result.outputs[stage.name] = record.output
    result.summaries[stage.name] = record.read()["summary"]
    result.skipped.append(stage.name)
    echo(f"{stage.name}: finished before, skipped ({record.output})")


def _run_stage(job: Job, stage: Stage, record: StageRecord, tracker: Tracker, result: JobResult, echo: Echo) -> None:
    key = f"{job.name}/{record.key}"
    resumed = record.output.is_dir()
    record.output.mkdir(parents=True, exist_ok=True)
    echo(f"{stage.name}: {'continuing' if resumed else 'started'} ({stage.config.kind})")
    tracker.start_run(key, name=stage.name, parent=_run_key(job), tags={"stage": stage.config.kind}, resume=True)
    tracker.log_params(key, stage.config.model_dump(mode="json"))
    context = StageContext(
        job_name=job.name,
        seed=job.config.seed,
        scaling=job.scaling(stage),
        output=record.output,
        outputs=dict(result.outputs),
        summaries=dict(result.summaries),
        tracker=tracker,
        run_key=key,
    )
    status, start = "FAILED", time.monotonic()
    try:
        summary = stage.run(context)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end_run(key, status)
    record.write(summary, seconds=time.monotonic() - start)
    result.outputs[stage.name] = record.output
    result.summaries[stage.name] = summary
    echo(f"{stage.name}: finished in {time.monotonic() - start:.0f} s")
