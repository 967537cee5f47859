"""Run a campaign: what its trials share, then the trials, with a record of each that a resumed campaign reads."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from raydistill import cluster
from raydistill.config.sections import ScalingConfig
from raydistill.data.mixture import open_mixture
from raydistill.job.load import Job, load_job
from raydistill.job.record import job_folder, stage_records
from raydistill.job.run import JobResult, Runner
from raydistill.search.best_job import inputs, needed
from raydistill.search.config import SearchConfig
from raydistill.search.preflight import examples, metric_of
from raydistill.search.results import (
    ENDED,
    TRIALS,
    CampaignResult,
    Trial,
    best_of,
    read_campaign,
    write_trials,
)
from raydistill.search.spaces import job_data, job_of
from raydistill.search.trial import FINISHED, Plan, failure_path, trial_job, trial_records
from raydistill.search.tuner import Listener, Settings, run_trials
from raydistill.stages import _corpora
from raydistill.tracking.provenance import command, environment
from raydistill.tracking.tracker import Tracker, start_tracker

Echo = Callable[[str], None]
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
    ``resume``.
    """
    folder = campaign_folder(search)
    raw = job_data(search)
    records = _Records.open(search, folder, identity=_identity(search, raw))
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
    if search.scheduler.name == "pbt" and scaling.num_workers > 1:
        raise ValueError(
            f"scheduler is pbt, which copies trials of one worker, but a trial has {scaling.num_workers}; "
            "set resources.num_workers to 1, or choose asha"
        )
    (folder / TRIALS).mkdir(parents=True, exist_ok=True)
    with cluster.connection(_scalings(search, job, scaling)):
        tracker = start_tracker(job.config.tracking, folder=str(folder.parent), experiment=search.name)
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


def _run(search: SearchConfig, plan: Plan, records: "_Records", scaling: ScalingConfig, echo: Echo) -> None:
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
    run_trials(search, replace(plan, parallel=concurrent), settings, records)
    records.close()


def _plan(
    search: SearchConfig, raw: dict[str, Any], folder: Path, *, tracker: Any, records: "_Records | None" = None
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
    together = scaling.model_copy(
        update={
            "num_workers": concurrent * scaling.num_workers,
            "data_cpus": concurrent * max(scaling.data_cpus, scaling.num_workers),
            "min_workers": None,
            "use_gpu": False,
        }
    )
    return [*found, together]


def _concurrent(search: SearchConfig, scaling: ScalingConfig) -> int:
    """Trials at one time: as asked, but no more than there is room for."""
    if ray.is_initialized() and os.environ.get("RAY_ADDRESS"):
        room = cluster.capacity(scaling)
    else:
        room = max(1, cluster.physical_cores() // (scaling.num_workers * scaling.cpus_per_worker))
        if ray.is_initialized():
            room = cluster.capacity(scaling) if search.max_concurrent else min(room, cluster.capacity(scaling))
        elif search.max_concurrent:
            room = search.max_concurrent
    return max(1, min(search.max_concurrent or room, room, search.num_trials))


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
    runner = Runner(job, stage_records(job), plan.tracker, result, echo, parent=plan.key)
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


@dataclass
class _Records(Listener):
    """The trials of a campaign, written down whenever one begins, evaluates or ends."""

    search: SearchConfig
    folder: Path
    identity: str
    trials: dict[int, Trial] = field(default_factory=dict)
    seconds: float = 0.0
    """Time of earlier runs."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._echo: Echo = lambda line: None
        self._kept = {trial.number for trial in self.ended()}
        self._begun: float | None = None
        self._starts: dict[int, float] = {}

    @classmethod
    def open(cls, search: SearchConfig, folder: Path, *, identity: str) -> "_Records":
        """What an earlier run left; raises ValueError when that was of another search."""
        stored = read_campaign(folder)
        if stored is None:
            return cls(search, folder, identity)
        if stored["identity"] != identity:
            raise ValueError(
                f"name is {search.name!r}, but {folder} has trials of another search; give another name, or remove it"
            )
        trials = {trial.number: trial for trial in stored["trials"] if trial.number < search.num_trials}
        return cls(search, folder, identity, trials, stored["seconds"])

    def ended(self) -> list[Trial]:
        """Trials that are kept."""
        return [trial for trial in self.trials.values() if trial.state in ENDED]

    @property
    def num_ended(self) -> int:
        """How many of them."""
        return len(self.ended())

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to try, or no time."""
        if self.num_ended == self.search.num_trials:
            return True
        return bool(self.trials) and self.time_left_s is not None and self.time_left_s <= 0

    @property
    def time_left_s(self) -> float | None:
        """Seconds of the budget that earlier runs left."""
        total = self.search.budget.time_s
        return None if total is None else total - self.seconds

    def samples(self) -> list[dict[str, Any]]:
        """What the searcher drew, of the first trials without a gap."""
        found = []
        for number in range(self.search.num_trials):
            if number not in self.trials:
                break
            found.append(self.trials[number].sample)
        return found

    def result(self) -> CampaignResult:
        """The campaign as far as it came."""
        trials = [self.trials[number] for number in sorted(self.trials)]
        return CampaignResult(self.folder, trials, best_of(trials, mode=self.search.mode))

    def begin(self, echo: Echo) -> None:
        """The trials start now."""
        self._echo, self._begun = echo, time.monotonic()

    def close(self) -> None:
        """The trials are over: those that still ran were stopped for the time."""
        with self._lock:
            for number, trial in self.trials.items():
                if trial.state == "pending" and number in self._starts:
                    self.trials[number] = replace(
                        trial, state="stopped", reason=f"budget.time, {self.search.budget.time}, was over"
                    )
            self._write()

    def suggested(self, number: int, values: dict[str, Any], sample: dict[str, Any]) -> None:
        with self._lock:
            if number not in self.trials:
                self.trials[number] = Trial(
                    number, values, "pending", None, {}, 0.0, 0, "", self.folder / TRIALS, sample=sample
                )
                self._write()

    def started(self, number: int) -> None:
        with self._lock:
            if number in self._kept or number in self._starts:
                return
            self._starts[number] = time.monotonic()
            failure_path(self.folder, number).unlink(missing_ok=True)
            self.trials[number] = replace(self.trials[number], reports=[])
            values = ", ".join(f"{key}={value}" for key, value in self.trials[number].overrides.items())
        self._echo(f"trial {number}: started ({values})")

    def reported(self, number: int, values: dict[str, Any], report: Mapping[str, Any]) -> None:
        if number in self._kept:
            return
        metric, step, figures = float(report["metric"]), int(report["step"]), dict(report["figures"])
        with self._lock:
            trial = self.trials[number]
            is_last = bool(report[FINISHED])
            told = [] if is_last else [{**figures, "metric": metric, "step": float(step)}]
            self.trials[number] = replace(
                trial,
                overrides=dict(values),
                metric=metric,
                metrics=figures,
                steps=step,
                seconds=round(self._elapsed(number), 3),
                folder=Path(report["folder"]),
                reports=[*trial.reports, *told],
                state="finished" if is_last else trial.state,
            )
            self._write()

    def done(self, number: int) -> None:
        self._end(number, None)

    def failed(self, number: int) -> None:
        path = failure_path(self.folder, number)
        self._end(number, path.read_text(encoding="utf-8") if path.is_file() else "its process ended; see its memory")

    def _end(self, number: int, error: str | None) -> None:
        if number in self._kept:
            return
        with self._lock:
            trial = self.trials[number]
            changes: dict[str, Any] = {"seconds": round(self._elapsed(number), 3)}
            if error is not None:
                changes |= {"state": "failed", "reason": error}
            elif trial.state != "finished":
                changes |= {"state": "stopped", "reason": f"by scheduler {self.search.scheduler.name}"}
            self.trials[number] = trial = replace(trial, **changes)
            self._write()
        shown = "" if trial.metric is None else f", {self.search.metric} {trial.metric:.4g} after {trial.steps} steps"
        why = f": {trial.reason}" if trial.state == "failed" else ""
        self._echo(f"trial {number}: {trial.state} in {trial.seconds:.0f} s{shown}{why}")

    def _elapsed(self, number: int) -> float:
        return time.monotonic() - self._starts.get(number, time.monotonic())

    def _write(self) -> None:
        passed = 0.0 if self._begun is None else time.monotonic() - self._begun
        trials = [self.trials[number] for number in sorted(self.trials)]
        write_trials(self.folder, trials, identity=self.identity, seconds=self.seconds + passed)
