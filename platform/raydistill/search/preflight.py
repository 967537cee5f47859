"""What can go wrong in a campaign is found before any cluster time is spent."""

import importlib.util
import itertools
import random
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from raydistill import cluster
from raydistill.config.sections import ScalingConfig
from raydistill.config.training import TrainingConfig
from raydistill.discovery import unknown_choice
from raydistill.job import preflight
from raydistill.job.graph import needed, only, with_readers
from raydistill.job.load import Job, load_job
from raydistill.job.preflight import Preview
from raydistill.search.best_job import best_name
from raydistill.search.config import SearchConfig
from raydistill.search.domains import Choice, Domain, QUniform, Values, is_number
from raydistill.search.results import listed
from raydistill.search.spaces import job_data, locate, with_values
from raydistill.stages import train
from raydistill.stages._base import ModelFacts
from raydistill.store_paths import is_in_store
from raydistill.training.selection import TASK, Criterion, criterion_of, metrics_of_method
from raydistill.user_error import UserError

_TRAIN = "train"
_LIBRARIES = {"optuna": "optuna", "hyperopt": "hyperopt"}
"""What a searcher needs beside raydistill's own requirements."""
_NO_VALUES = ("kind", "matrix", "scaling", "max_parallel")
"""Keys of a stage that make no other student, or several."""
_NUM_RANDOM = 3
_MOST_EXAMPLES = 24
_LEAST_POPULATION = 4
_OPTIMIZER = ("learning_rate", "weight_decay", "max_grad_norm")
"""Keys of ``optimizer`` that decide nothing before the first step; the moments stay those of the copied trial."""


def check_search(search: SearchConfig) -> dict[str, list[str]]:
    """Check a search with several values of its keys; returns lines to print, by what they are about.

    The same checks as a job's run over each of them; starts no cluster. Raises UserError, one line a problem.
    """
    _refuse(_missing_library(search))
    raw = _base_job(search)
    paths = _paths(search, raw)
    first, *others = examples(search)
    job = _checked_job(search, raw, first, whole=True)
    _refuse(_misplaced(search, paths, job))
    stage = training_of(job, search.stage)
    criterion = metric_of(search, stage)
    _refuse(_unused_budget(search, stage.training))
    _refuse(_unknown_rungs(search, job, {path[1] for path in paths.values()}))
    scaling = job.scaling(job.stages[search.stage])
    if search.scheduler.name == "pbt":
        _refuse(_not_exchangeable(search, paths, stage, scaling))
    for values in others:
        _checked_job(search, raw, values, whole=False)
    cluster.check_resources(scaling)
    shared = _shared(search, job, {path[1] for path in paths.values()})
    return _lines(search, shared, criterion, len(others) + 1)


def _refuse(problems: Iterable[str]) -> None:
    """Raise UserError if there are problems, each a line."""
    if lines := list(problems):
        raise UserError(lines)


def training_of(job: Job, stage: str) -> train.Config:
    """The configuration of the searched stage."""
    found = job.config.stages[stage]
    assert isinstance(found, train.Config), "a search of another stage is refused before"
    return found


def metric_of(search: SearchConfig, stage: train.Config) -> Criterion:
    """The search's metric as the trainings of ``stage`` log it.

    Raises ValueError for a metric that they will not have, or one that is better in the other direction.
    """
    greater = search.mode == "max"
    training = stage.training.model_copy(update={"metric_for_best_model": search.metric, "greater_is_better": greater})
    try:
        return criterion_of(training, stage.task, stage.method)
    except UserError as error:
        text = str(error).replace("training.metric_for_best_model", "metric")
        contradiction = f"training.greater_is_better is {greater}, "
        if text.startswith(contradiction):
            other = "min" if greater else "max"
            what = text.removeprefix(contradiction).partition(";")[0]
            text = f"mode is {search.mode!r}, {what}; write mode: {other}"
        raise UserError([text]) from None


_WORDS = {"min": "least", "max": "greatest"}


def examples(search: SearchConfig) -> list[dict[str, Any]]:
    """Values of all keys to check a search with: every choice and both ends of every range once, and random draws.

    All of a small grid. The same each time.
    """
    domains = search.domains
    if search.searcher.name == "grid" and search.num_trials <= _MOST_EXAMPLES:
        return list(search.combinations())
    lengths = [len(domain.values) for domain in domains.values() if isinstance(domain, Choice)]
    rounds = min(max([2, *lengths]), _MOST_EXAMPLES - _NUM_RANDOM)
    rng = random.Random(search.seed)
    found = [{key: _corner(domain, number) for key, domain in domains.items()} for number in range(rounds)]
    return found + [{key: domain.sample(rng) for key, domain in domains.items()} for _ in range(_NUM_RANDOM)]


def _corner(domain: Domain, number: int) -> Any:
    if isinstance(domain, Choice):
        return domain.values[number % len(domain.values)]
    ends = [domain.low, domain.at(domain.num_steps) if isinstance(domain, QUniform) else domain.high]
    return ends[number % 2]


def _missing_library(search: SearchConfig) -> Iterator[str]:
    name = search.searcher.name
    if name in _LIBRARIES and importlib.util.find_spec(_LIBRARIES[name]) is None:
        yield (
            f"searcher.name is {name!r}, whose package is not installed; pip install 'raydistill[search]', or choose "
            "random"
        )


def _base_job(search: SearchConfig) -> dict[str, Any]:
    """Plain data of the job that is varied; raises UserError for one that cannot be searched."""
    raw = job_data(search)
    storage = str(raw.get("storage", ""))
    if is_in_store(storage):
        raise UserError([f"storage is {storage!r}, which tune does not take; name a folder, such as storage=runs"])
    stages = {name: stage for name, stage in raw["stages"].items() if isinstance(stage, Mapping)}
    trainings = [name for name, stage in stages.items() if stage.get("kind") == _TRAIN]
    if search.stage not in trainings:
        raise UserError([unknown_choice("stage", search.stage, trainings) + ", which are the trainings of the job"])
    return raw


def _paths(search: SearchConfig, raw: Mapping[str, Any]) -> dict[str, list[str]]:
    """The full paths of the searched keys; raises UserError for keys that the job does not have, a line each."""
    problems: list[str] = []
    paths: dict[str, list[str]] = {}
    for key in search.space:
        try:
            paths[key] = locate(raw, search.stage, key)
        except UserError as error:
            problems += [f"space.{line}" for line in error.lines]
    _refuse([*problems, *_overlaps(paths)])
    return paths


def _misplaced(search: SearchConfig, paths: Mapping[str, list[str]], job: Job) -> Iterator[str]:
    """Keys on which the searched student does not depend."""
    used = needed(job, search.stage)
    for key, path in paths.items():
        if path[0] != "stages" or path[1] not in used:
            yield (
                f"space.{key} is not a key of {search.stage} or of what it reads "
                f"({', '.join(sorted(used - {search.stage}))}); search keys of these, such as "
                f"{search.stage}.{key.rpartition('.')[2]}"
            )
        elif path[2:3] and path[2] in _NO_VALUES:
            yield f"space.{key} cannot be searched; it does not change the student, or makes several"


def _overlaps(paths: Mapping[str, list[str]]) -> Iterator[str]:
    for one, other in itertools.permutations(paths, 2):
        if paths[one] == paths[other][: len(paths[one])] and (paths[one] != paths[other] or one < other):
            yield f"space.{other} lies in space.{one}, which replaces it; remove one of them"


def _checked_job(search: SearchConfig, raw: Mapping[str, Any], values: Values, *, whole: bool) -> Job:
    """The job with these values, checked: all that a trial needs or, as a ``whole``, what a best job runs."""
    try:
        return _check(search, raw, values, whole=whole)
    except UserError as error:
        # Without the values it may fail too, and then they are not what is wrong.
        if error.lines == _problems_without_values(search, raw, whole=whole):
            raise
        raise UserError([f"with {listed(values)}: {line}" for line in error.lines]) from None


def _check(search: SearchConfig, raw: Mapping[str, Any], values: Values, *, whole: bool) -> Job:
    job = load_job(with_values(raw, search.stage, values))
    _refuse(_several_runs(search, job))
    job = only(job, with_readers(job, search.stage) if whole else needed(job, search.stage))
    if whole:
        job = replace(job, config=job.config.model_copy(update={"name": best_name(search)}))
    _refuse(_unmeasured(search, job, preflight.check_job(job)))
    return job


def _unmeasured(search: SearchConfig, job: Job, previews: Iterable[Preview]) -> Iterator[str]:
    """Why evaluations of the searched stage will not have the metric that trials are compared by."""
    stage = training_of(job, search.stage)
    for preview in previews:
        made = preview.makes
        if preview.stage.partition("[")[0] != search.stage or not isinstance(made, ModelFacts):
            continue
        key = metric_of(search, stage).key
        if key.startswith(TASK) and key.removeprefix(TASK) not in (made.metrics or ()):
            choices = " or ".join(metrics_of_method(stage.method))
            yield (
                f"metric is {search.metric!r}, which reads labels, but validation rows of {search.stage} have none; "
                f"binarize with labelled: all or validation, or write {choices}"
            )


def _problems_without_values(search: SearchConfig, raw: Mapping[str, Any], *, whole: bool) -> list[str]:
    try:
        _check(search, raw, {}, whole=whole)
    except UserError as error:
        return error.lines
    return []


def _several_runs(search: SearchConfig, job: Job) -> Iterator[str]:
    num_runs = sum(run.base == search.stage for run in job.runs.values())
    if num_runs != 1:
        matrix = job.config.stages[search.stage].matrix
        remedy = f"write {search.stage}.matrix: {{}} in overrides" if matrix else "name one run of what it reads"
        yield f"stage is {search.stage!r}, which has {num_runs} runs, but a trial is one; {remedy}"


def _unused_budget(search: SearchConfig, training: TrainingConfig) -> Iterator[str]:
    """Why a scheduler has nothing to decide by, or a searcher nothing to learn from."""
    name = search.scheduler.name
    last = min((steps for steps in (training.max_steps, training.stop_after_steps) if steps is not None), default=None)
    if name != "fifo" and training.evaluates_only_at_the_end:
        yield (
            f"scheduler.name is {name!r}, which compares trials while they run, but {search.stage} evaluates only "
            f"at its end; set {search.stage}.training.eval_steps in overrides lower, or scheduler: fifo"
        )
    for key in ("grace_steps", "perturbation_steps"):
        steps = getattr(search.scheduler, key)
        if steps is not None and last is not None and steps >= last:
            yield f"scheduler.{key} is {steps}, but a trial has {last} steps; lower it, or scheduler: fifo"
    if name == "pbt" and search.num_trials < _LEAST_POPULATION:
        yield f"budget.trials is {search.num_trials}, but pbt needs a population of {_LEAST_POPULATION}; raise it"
    startup = search.searcher.num_startup_trials
    if startup is not None and startup >= search.num_trials:
        yield (
            f"searcher.num_startup_trials is {startup} of {search.num_trials} trials, so that nothing is learned; "
            "lower it, or choose searcher random"
        )


def _unknown_rungs(search: SearchConfig, job: Job, searched: set[str]) -> Iterator[str]:
    """Why trials evaluate at different steps, so that a scheduler cannot compare them."""
    stage = training_of(job, search.stage)
    varied = [one.corpus for one in stage.corpus if one.corpus in job.runs and needed(job, one.corpus) & searched]
    if varied and search.scheduler.name != "fifo" and not stage.training.evaluates_at_whole_steps:
        yield (
            f"{search.stage}.training.eval_steps is {stage.training.eval_steps}, which depends on the rows of "
            f"{varied[0]}, but that is searched; write a number of steps in overrides, or scheduler: fifo"
        )


def _not_exchangeable(
    search: SearchConfig, paths: Mapping[str, list[str]], stage: train.Config, scaling: ScalingConfig
) -> Iterator[str]:
    """Why trials of ``stage`` cannot go on from each other's states with other values.

    Numbers that weigh, cut or scale a loss can change, and those of the optimizer's step; what shapes models, batches
    or the length of the training cannot.
    """
    for key, domain in search.domains.items():
        if not _may_change(paths[key], domain, stage, search.stage):
            yield f"space.{key} cannot change in mid-run, which scheduler pbt needs; leave it out, or choose asha"
    if scaling.num_workers > 1:
        yield (
            f"scheduler is pbt, which copies trials of one worker, but a trial has {scaling.num_workers}; "
            "write resources: {num_workers: 1}, or choose asha"
        )


def _may_change(path: list[str], domain: Domain, stage: train.Config, name: str) -> bool:
    if isinstance(domain, Choice) and not all(map(is_number, domain.values)):
        return False
    if path[:2] != ["stages", name] or len(path) != 4:
        return False
    section, key = path[2:]
    if section == "optimizer":
        return key in _OPTIMIZER
    return section == "method" and _is_float(get_type_hints(type(stage.method.config)).get(key))


def _is_float(annotation: Any) -> bool:
    """Whether an option is a number with decimals; whole numbers count blocks, layers or passes."""
    if get_origin(annotation) in (Union, types.UnionType):
        return float in get_args(annotation)
    return annotation is float


def _shared(search: SearchConfig, job: Job, searched: set[str]) -> list[str]:
    """Stages that a trial needs and no searched key changes."""
    used = needed(job, search.stage) - {search.stage}
    return [name for name in job.config.stages if name in used and not needed(job, name) & searched]


def _lines(search: SearchConfig, shared: list[str], criterion: Criterion, num_checked: int) -> dict[str, list[str]]:
    budget = f", at most {search.budget.time} over all runs" if search.budget.time else ""
    return {
        "search": [
            f"{search.num_trials} trials of stage {search.stage}, searcher {search.searcher.name}, "
            f"scheduler {search.scheduler.name}{budget}",
            f"the {_WORDS[search.mode]} {criterion.key} is the best",
            f"checked with {num_checked} configurations",
            f"made once for all trials: {', '.join(shared) or 'nothing'}",
        ],
        "space": [f"{key}: {_shown(domain)}" for key, domain in search.domains.items()],
    }


def _shown(domain: Domain) -> str:
    kind, arguments = next(iter(domain.dump().items()))
    return f"{kind} {', '.join(map(str, arguments))}"
