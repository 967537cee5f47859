"""Run a campaign: what its trials share, then the trials, with a record of each that a resumed campaign reads."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from raydistill import cluster
from raydistill.config.sections import ScalingConfig
from raydistill.data.mixture import open_mixture
from raydistill.job.load import Job, load_job
from raydistill.job.record import job_folder, stage_records
from raydistill.job.run import JobResult, Runner, folder_alone
from raydistill.search.best_job import inputs, needed
from raydistill.search.config import SearchConfig
from raydistill.search.preflight import examples, metric_of
from raydistill.search.records import Echo, Records
from raydistill.search.results import TRIALS, CampaignResult
from raydistill.search.spaces import job_data, job_of
from raydistill.search.trial import Plan, trial_job, trial_records
from raydistill.search.tuning.run import Settings, run_trials
from raydistill.stages import _corpora
from raydistill.tracking.provenance import command, environment
from raydistill.tracking.tracker import Tracker, start_tracker
from raydistill.training.kept_process import KeptProcesses

Finish = Callable[[CampaignResult, Tracker, str], None]
"""Called with the result, the tracker and the key of the campaign's tracked run before that ends."""


def campaign_folder(search: SearchConfig) -> Path:
    """Where a campaign's records and trials lie, absolute; raises UserError when its job cannot be read."""
    return job_folder(job_of(search)).parent / search.name


def run_campaign(search: SearchConfig, *, resume: bool, echo: Echo, finish: Finish | None = None) -> CampaignResult:
    """Make the trials that are not made yet and return all of them.

    ``echo`` gets a line for whatever starts or ends. A campaign that was interrupted goes on with ``resume``: trials
    that ended are kept, one that was interrupted continues from its latest checkpoint.
    Raises ValueError, of one line, when the campaign's folder has another search, or one to resume without
    ``resume``, and while another process runs it.
    """
    folder = campaign_folder(search)
    with folder_alone(folder, f"campaign {search.name}"):
        return _run_in(folder, search, resume=resume, echo=echo, finish=finish)


def _run_in(folder: Path, search: SearchConfig, *, resume: bool, echo: Echo, finish: Finish | None) -> CampaignResult:
    raw = job_data(search)
    records = Records.open(search, folder, identity=_identity(search, raw))
    if records.is_complete:
        echo(f"{search.name}: finished before, {len(records.trials)} trials ({folder})")
        return records.result()
    if records.trials and not resume:
        raise ValueError(
            f"campaign {search.name} has {records.num_ended} of {search.num_trials} trials in {folder}; "
            "add --resume to go on with them, or remove that folder to begin anew"
        )
    job = trial_job(_plan(search, raw, folder, tracker=None), examples(search)[0])
    scaling = job.scaling(job.stages[search.stage])
    (folder / TRIALS).mkdir(parents=True, exist_ok=True)
    with cluster.connection(_scalings(search, job, scaling)):
        tracker = start_tracker(job.config.tracking, folder=str(folder.parent), job=search.name)
        try:
            tracker.ready()
            plan = _plan(search, raw, folder, tracker=tracker, records=records)
            with _tracked(plan, search, raw):
                _run(search, plan, records, scaling, echo)
                result = records.result()
                if finish is not None:
                    finish(result, tracker, plan.key)
        finally:
            tracker.close()
    return result


def _run(search: SearchConfig, plan: Plan, records: Records, scaling: ScalingConfig, echo: Echo) -> None:
    outputs = _make_shared(search, plan, echo)
    concurrent = _concurrent(search, scaling)
    if records.num_ended:
        echo(f"{search.name}: {records.num_ended} of {search.num_trials} trials ended before")
    echo(f"{search.name}: {search.num_trials} trials, {concurrent} at a time ({plan.folder})")
    settings = Settings(
        scaling=scaling,
        concurrent=concurrent,
        eval_steps=_eval_steps(search, plan, outputs),
        time_s=records.time_left_s,
        samples=records.samples(),
    )
    records.begin(echo)
    try:
        run_trials(search, replace(plan, parallel=concurrent), settings, records)
    finally:
        # Runs of trials that were stopped are ended as killed by the tracker when it closes.
        for number in sorted(records.lost):
            plan.tracker.end_run(plan.trial_key(number), "FAILED")
    records.close()


def _plan(
    search: SearchConfig, raw: dict[str, Any], folder: Path, *, tracker: Any, records: Records | None = None
) -> Plan:
    stage = load_job(raw).config.stages[search.stage]
    return Plan(
        raw=raw,
        stage=search.stage,
        metric=metric_of(search, stage).key,
        campaign=search.name,
        folder=folder,
        tracker=tracker,
        recorded={} if records is None else {trial.number: trial for trial in records.ended()},
    )


def _identity(search: SearchConfig, raw: Mapping[str, Any]) -> str:
    """Hash of what a campaign's trials depend on; budget and processes may change when it is resumed."""
    kept = search.model_dump(mode="json", include={"stage", "space", "metric", "mode", "searcher", "scheduler", "seed"})
    stages = {
        name: {key: value for key, value in stage.items() if key != "scaling"} for name, stage in raw["stages"].items()
    }
    content = json.dumps([kept, stages, raw.get("seed")], sort_keys=True, default=str)
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


def _make_shared(search: SearchConfig, plan: Plan, echo: Echo) -> dict[str, Path]:
    """Run the stages before the searched one, which all trials read; returns their outputs."""
    names: set[str] = set()
    for values in examples(search):
        job = trial_job(plan, values)
        names |= needed(inputs(job), search.stage) - {search.stage}
    if not names:
        return {}
    stages = {name: stage for name, stage in plan.raw["stages"].items() if name in names}
    job = load_job({**plan.raw, "stages": stages})
    result = JobResult(job_folder(job))
    with KeptProcesses() as processes:
        runner = Runner(job, stage_records(job), plan.tracker, result, echo, parent=plan.key, launch=processes.train)
        for name in job.config.stages:
            runner.run_stage([run for run in job.runs.values() if run.base == name])
    return dict(result.outputs)


def _eval_steps(search: SearchConfig, plan: Plan, outputs: Mapping[str, Path]) -> int:
    """Optimizer steps between two evaluations of a trial."""
    job = trial_job(plan, examples(search)[0])
    config = job.config.stages[search.stage]
    if config.training.eval_steps is not None:
        return int(config.training.eval_steps)
    run = next(run for run in job.runs.values() if run.base == search.stage)
    records = trial_records(plan, job)
    found = {reference: records[names[0]].output for reference, names in run.inputs.items()}
    rows = len(open_mixture(_corpora.train_parts(config.corpus, found, seed=job.seed(run))))
    return -(-rows // int(config.training.batch_size))


@contextmanager
def _tracked(plan: Plan, search: SearchConfig, raw: Mapping[str, Any]) -> Iterator[None]:
    """The campaign's tracked run, of which trials are part."""
    tags = {"campaign": search.name, "job": raw["name"], "command": command(), **environment()}
    plan.tracker.start_run(plan.key, name=search.name, tags=tags, resume=True)
    plan.tracker.log_params(plan.key, search.model_dump(mode="json", exclude={"description"}))
    with plan.tracker.ended(plan.key):
        yield
