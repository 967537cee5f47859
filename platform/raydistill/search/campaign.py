"""Run a campaign: what its trials share, then the trials, with a record of each that a resumed campaign reads."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from raydistill import cluster
from raydistill.config.sections import ScalingConfig
from raydistill.data.mixture import open_mixture
from raydistill.job.graph import needed, only
from raydistill.job.load import Job, load_job
from raydistill.job.record import job_folder, stage_records
from raydistill.job.run import JobResult, Runner, folder_alone
from raydistill.search.config import SearchConfig
from raydistill.search.preflight import examples, metric_of, training_of
from raydistill.search.records import CampaignRecord, Echo
from raydistill.search.results import TRIALS, CampaignResult
from raydistill.search.spaces import job_data, trial_job
from raydistill.search.trial import TrialContext, trial_records
from raydistill.search.tuning.run import run_trials
from raydistill.stages import _corpora
from raydistill.tracking.provenance import command, environment
from raydistill.tracking.tracker import NullTracker, Tracker, start_tracker
from raydistill.training.kept_process import KeptProcesses
from raydistill.user_error import UserError

Finish = Callable[[CampaignResult, Tracker, str], None]
"""Called with the result, the tracker and the key of the campaign's tracked run before that ends."""


def campaign_folder(search: SearchConfig) -> Path:
    """Where a campaign's records and trials lie, absolute; raises as ``trial_context``."""
    return trial_context(search).folder


def run_campaign(search: SearchConfig, *, resume: bool, echo: Echo, finish: Finish | None = None) -> CampaignResult:
    """Make the trials that are not made yet and return all of them.

    ``echo`` gets a line for whatever starts or ends. A campaign that was interrupted goes on with ``resume``: trials
    that ended are kept, one that was interrupted continues from its latest checkpoint.
    Raises ValueError, of one line, when the campaign's folder has another search, or one to resume without
    ``resume``, and while another process runs it.
    """
    context = trial_context(search)
    with folder_alone(context.folder, f"campaign {search.name}"):
        return _run_in_folder(context, search, resume=resume, echo=echo, finish=finish)


def _run_in_folder(
    context: TrialContext, search: SearchConfig, *, resume: bool, echo: Echo, finish: Finish | None
) -> CampaignResult:
    folder = context.folder
    record = CampaignRecord.open(search, folder, identity=_identity(search, context.raw))
    if record.is_complete:
        echo(f"{search.name}: finished before, {len(record.trials)} trials ({folder})")
        return record.result()
    if record.trials and not resume:
        raise UserError(
            f"campaign {search.name} has {record.num_ended} of {search.num_trials} trials in {folder}; "
            "add --resume to go on with them, or remove that folder to start over"
        )
    jobs = [trial_job(context.raw, search.stage, values) for values in examples(search)]
    scaling = jobs[0].scaling(jobs[0].stages[search.stage])
    (folder / TRIALS).mkdir(parents=True, exist_ok=True)
    with cluster.connection(_scalings(search, jobs[0], scaling)):
        tracker = start_tracker(jobs[0].config.tracking, folder=str(folder.parent), job=search.name)
        try:
            tracker.ready()
            recorded = {trial.number: trial for trial in record.ended()}
            parallel = _concurrent(search, scaling)
            context = replace(context, tracker=tracker, parallel=parallel, recorded=recorded)
            with _tracked(context, search):
                _make_shared(context, jobs, echo)
                _run(search, context, record, jobs[0], echo)
                result = record.result()
                if finish is not None:
                    finish(result, tracker, context.key)
        finally:
            tracker.close()
    return replace(result, lost=tracker.lost)


def trial_context(search: SearchConfig) -> TrialContext:
    """What the trials of a campaign have in common, but the tracker; raises ValueError as ``load_job`` does."""
    raw = job_data(search)
    job = load_job(raw)
    folder = job_folder(job).parent / search.name
    metric = metric_of(search, training_of(job, search.stage)).key
    return TrialContext(raw, search.stage, metric, search.name, folder, NullTracker())


def _run(search: SearchConfig, context: TrialContext, record: CampaignRecord, job: Job, echo: Echo) -> None:
    if record.num_ended:
        echo(f"{search.name}: {record.num_ended} of {search.num_trials} trials ended before")
    echo(f"{search.name}: {search.num_trials} trials, {context.parallel} at a time ({context.folder})")
    scaling = job.scaling(job.stages[search.stage])
    # No scheduler but fifo does without.
    eval_steps = 0 if search.scheduler.name == "fifo" else _eval_steps(context, job)
    record.begin(echo)
    try:
        run_trials(search, context, record, scaling=scaling, eval_steps=eval_steps)
    finally:
        # Runs of trials that were stopped are ended as killed by the tracker when it closes.
        for number in sorted(record.lost):
            context.tracker.end_run(context.trial_key(number), "FAILED")
    record.close()


def _identity(search: SearchConfig, raw: Mapping[str, Any]) -> str:
    """Hash of what a campaign's trials depend on; budget and processes may change when it is resumed."""
    kept = search.model_dump(mode="json", include={"stage", "space", "metric", "mode", "searcher", "scheduler", "seed"})
    stages = {
        name: {key: value for key, value in stage.items() if key != "scaling"} for name, stage in raw["stages"].items()
    }
    plugins = [raw["plugins"]] if raw.get("plugins") else []
    content = json.dumps([kept, stages, raw.get("seed"), *plugins], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _scalings(search: SearchConfig, job: Job, scaling: ScalingConfig) -> list[ScalingConfig]:
    """What the cluster has to have room for: each stage and, on a machine of one's own, all trials of one time."""
    found = [job.scaling(stage) for stage in job.stages.values()]
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        return found
    concurrent = _concurrent(search, scaling)
    # Beside a population there is room for one trial more, less a CPU, so that their number can be kept.
    places = concurrent + (search.scheduler.name == "pbt")
    together = scaling.model_copy(
        update={
            "num_workers": concurrent * scaling.num_workers,
            "data_cpus": places * max(scaling.data_cpus, scaling.num_workers),
            "min_workers": None,
            "use_gpu": False,
        }
    )
    return [*found, together]


def _concurrent(search: SearchConfig, scaling: ScalingConfig) -> int:
    """Trials at one time: as asked, but no more than there is room for."""
    room = _room(search, scaling)
    return max(1, min(search.max_concurrent or room, room, search.num_trials))


def _room(search: SearchConfig, scaling: ScalingConfig) -> int:
    """Trials that fit: on a machine of one's own a worker a core, unless more are asked for."""
    cores = cluster.physical_cores() // (scaling.num_workers * scaling.cpus_per_worker)
    if not ray.is_initialized():
        # What is started later has the size that is asked for.
        return search.max_concurrent or cores
    capacity = cluster.capacity(scaling)
    return capacity if search.max_concurrent or os.environ.get("RAY_ADDRESS") else min(cores, capacity)


def _make_shared(context: TrialContext, jobs: Sequence[Job], echo: Echo) -> None:
    """Run the stages before the searched one that trials, of which these are examples, read."""
    names = {name for job in jobs for name in job.config.stages} - {context.stage}
    if not names:
        return
    whole = load_job(context.raw)
    job = only(whole, set().union(*(needed(whole, name) for name in names)))
    with KeptProcesses() as processes:
        result, launch = JobResult(job_folder(job)), processes.train
        runner = Runner(job, stage_records(job), context.tracker, result, echo, parent=context.key, launch=launch)
        for name in job.config.stages:
            runner.run_stage([run for run in job.runs.values() if run.base == name])


def _eval_steps(context: TrialContext, job: Job) -> int:
    """Optimizer steps between two evaluations of a trial."""
    config = training_of(job, context.stage)
    if config.training.evaluates_at_whole_steps:
        return config.training.steps_between_evaluations(1)
    run = next(run for run in job.runs.values() if run.base == context.stage)
    records = trial_records(context, job, 0)
    found = {reference: records[names[0]].output for reference, names in run.inputs.items()}
    rows = len(open_mixture(_corpora.train_parts(config.corpus, found, seed=job.seed(run))))
    return config.training.steps_between_evaluations(config.training.steps_per_epoch(rows))


@contextmanager
def _tracked(context: TrialContext, search: SearchConfig) -> Iterator[None]:
    """The campaign's tracked run, of which trials are part."""
    tags = {"campaign": search.name, "job": context.raw["name"], "command": command(), **environment()}
    context.tracker.start_run(context.key, name=search.name, tags=tags, resume=True)
    context.tracker.log_params(context.key, search.model_dump(mode="json", exclude={"description"}))
    with context.tracker.ended(context.key):
        yield
