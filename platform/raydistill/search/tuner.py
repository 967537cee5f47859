"""The one importer of Ray Tune: what is tried next, what ends early, and where trials run."""

import itertools
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher

from raydistill.config.sections import ScalingConfig
from raydistill.search.config import SearchConfig
from raydistill.search.domains import Choice, Domain, Grid, LogUniform, QUniform, RandInt, Uniform
from raydistill.search.trial import FINISHED, Plan, Reporter, run_trial
from raydistill.training.session import SaveState

_METRIC, _STEP, _CLOCK = "metric", "step", "clock"
_OWNER = "trial.txt"
_NEVER = 10**9
_THREAD_END_S = 60
"""How long an ended trial may take to leave its process to the next."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How a campaign's trials are run."""

    scaling: ScalingConfig
    concurrent: int
    eval_steps: int
    """Optimizer steps between two evaluations."""
    time_s: float | None
    samples: Sequence[Values]
    """What the searcher drew for the trials of earlier runs, by number."""


class Listener:
    """Hears, in the driver, what becomes of trials; by their numbers."""

    def __reduce__(self) -> Any:
        # Ray Tune stores all that it is given, for a restart that is done otherwise here.
        return Listener, ()

    def __deepcopy__(self, memo: Any) -> "Listener":
        return self

    def suggested(self, number: int, values: Values, sample: Values) -> None:
        """A trial will have these values."""

    def started(self, number: int) -> None:
        """A trial has a process."""

    def reported(self, number: int, values: Values, report: Mapping[str, Any]) -> None:
        """A trial evaluated, or finished; ``values`` are those it has now, ``report`` is what a ``Reporter`` told."""

    def done(self, number: int) -> None:
        """A trial ended, by itself or not."""

    def failed(self, number: int) -> None:
        """A trial raised an error, or its process ended."""


def run_trials(search: SearchConfig, plan: Plan, settings: Settings, listener: Listener) -> None:
    """Run trials until the budget is used; what earlier runs recorded is told to searcher and scheduler first.

    Ctrl-C is raised at once in the caller.
    """
    folder = plan.folder / ".tune"
    shutil.rmtree(folder, ignore_errors=True)
    # Ray Tune's newer output prints even when it is told to be quiet.
    quiet = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    os.environ.update(quiet)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    random.seed(search.seed)
    multiple = settings.scaling.num_workers > 1
    copies = search.scheduler.name == "pbt"
    suggestions = None if copies else _Suggestions(search, settings.samples, listener)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(plan, copies=copies), _resources(settings, is_population=copies)),
        param_space=_population(search, listener) if copies else None,
        tune_config=tune.TuneConfig(
            metric=_METRIC,
            mode=search.mode,
            num_samples=1 if copies else search.num_trials,
            search_alg=suggestions,
            scheduler=_scheduler(search, settings.eval_steps),
            # A population is alive as a whole, and takes turns where there is no room for all.
            max_concurrent_trials=None if copies else settings.concurrent,
            time_budget_s=settings.time_s,
            # An ended group of workers goes with the process that started it.
            reuse_actors=not multiple,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[_Callback(listener)],
            verbose=0,
        ),
    )
    try:
        _fit(tuner)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fit(tuner: tune.Tuner) -> None:
    """Fit in a thread, where Ray Tune leaves Ctrl-C alone: its own handler would go on for a while."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            tuner.fit()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    outcome.result()


def _name(trial: Any) -> str:
    # As it was suggested: a copy of another trial gets all of that one's configuration.
    return str(trial.custom_trial_name or f"trial-{trial.config['number']:03d}")


def _number(name: str) -> int:
    return int(name.removeprefix("trial-"))


def _resources(settings: Settings, *, is_population: bool) -> Any:
    scaling = settings.scaling
    if scaling.num_workers > 1:
        # The workers ask for their own.
        return tune.PlacementGroupFactory([{"CPU": 0}])
    cpus = scaling.cpus_per_worker
    if is_population:
        # So large that no more of them fit than are asked for, beside the tasks that store teacher outputs.
        room = int(ray.cluster_resources()["CPU"]) - max(1, scaling.data_cpus)
        cpus = max(cpus, room // settings.concurrent)
    return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": 1} if scaling.use_gpu else {"CPU": cpus}])


def _trainable(plan: Plan, *, copies: bool) -> Callable[[Values], None]:
    def trial(config: Values) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_THREAD_END_S)
        number = _number(tune.get_context().get_trial_name())
        reporter = _TuneReporter(number, copies=copies)
        found = tune.get_checkpoint() if copies else None
        if found is None:
            run_trial(plan, number, config["values"], reporter)
            return
        with found.as_directory() as folder:
            reporter.start = Path(folder)
            reporter.owner = int((reporter.start / _OWNER).read_text(encoding="utf-8"))
            reporter.is_copy = reporter.owner != number
            run_trial(plan, number, config["values"], reporter)

    return trial


class _TuneReporter(Reporter):
    """Reports to Ray Tune, which ends the thread here when the trial is to stop."""

    def __init__(self, number: int, *, copies: bool) -> None:
        self._number, self.copies = number, copies
        self.owner = number
        self._clock = 0

    def report(self, metrics: Mapping[str, float], save_state: SaveState | None = None) -> None:
        figures = {name: value for name, value in metrics.items() if name not in (_METRIC, _STEP, FINISHED)}
        if self.is_copy:
            figures["copied_from"] = float(self.owner)
        if not metrics.get(FINISHED):
            # A trial that has finished is at no point where the scheduler could decide: nothing is to go on.
            self._clock = int(metrics[_STEP])
        told = {
            _METRIC: metrics[_METRIC],
            _CLOCK: self._clock,
            _STEP: int(metrics[_STEP]),
            FINISHED: bool(metrics.get(FINISHED)),
            "figures": figures,
            "folder": str(self.folder),
        }
        if save_state is None or not self.copies:
            tune.report(told)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_state(Path(folder))
            (Path(folder) / _OWNER).write_text(str(self._number), encoding="utf-8")
            tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))


class _Callback(tune.Callback):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._listener.started(_number(_name(trial)))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self._listener.reported(_number(_name(trial)), trial.config["values"], result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._listener.done(_number(_name(trial)))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._listener.failed(_number(_name(trial)))


class _Suggestions(Searcher):
    """Numbers trials, draws at random or by grid itself, and asks a library's searcher for the rest."""

    def __init__(self, search: SearchConfig, samples: Sequence[Values], listener: Listener) -> None:
        super().__init__(metric=_METRIC, mode=search.mode)
        self._search, self._listener = search, listener
        self._inner = _inner(search, samples)
        self._grid = _combinations(search)
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Values | str | None:
        number = len(self._numbers)
        if number >= self._search.num_trials:
            return Searcher.FINISHED
        domains = self._search.domains
        if self._inner is not None:
            sample = self._inner.suggest(trial_id)
            if not isinstance(sample, dict):
                return sample
            # Some libraries give numpy's numbers.
            sample = {key: getattr(value, "item", lambda value=value: value)() for key, value in sample.items()}
            values = {key: _decoded(domain, sample[key]) for key, domain in domains.items()}
        elif self._grid:
            sample = values = dict(zip(domains, self._grid[number], strict=True))
        else:
            sample = values = _at_random(self._search, number)
        self._numbers[trial_id] = number
        self._listener.suggested(number, values, sample)
        return {"number": number, "values": values}

    def on_trial_result(self, trial_id: str, result: Values) -> None:
        if self._inner is not None:
            self._inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Values | None = None, error: bool = False) -> None:
        if self._inner is not None:
            self._inner.on_trial_complete(trial_id, result, error)

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed campaign tells its searcher the trials again."""


def _at_random(search: SearchConfig, number: int) -> Values:
    """Of seed and number alone, so that a resumed campaign goes on with what it would have drawn."""
    rng = random.Random(f"{search.seed}/{number}")
    return {key: domain.sample(rng) for key, domain in search.domains.items()}


def _population(search: SearchConfig, listener: Listener) -> Values:
    """All trials at once: population-based training takes no searcher."""
    drawn = [_at_random(search, number) for number in range(search.num_trials)]
    for number, values in enumerate(drawn):
        listener.suggested(number, values, values)
    numbers = tune.grid_search(list(range(search.num_trials)))
    return {"number": numbers, "values": tune.sample_from(lambda config: dict(drawn[config["number"]]))}


def _combinations(search: SearchConfig) -> list[tuple[Any, ...]]:
    """All combinations of the values of a grid, none for another searcher."""
    if search.searcher.name != "grid":
        return []
    listed = [domain.values for domain in search.domains.values() if isinstance(domain, Choice | Grid)]
    return list(itertools.product(*listed))


def _inner(search: SearchConfig, samples: Sequence[Values]) -> Searcher | None:
    """A library's searcher, which suggests ``samples`` first."""
    name = search.searcher.name
    if name not in ("optuna", "hyperopt"):
        return None
    space = {key: _encoded(domain) for key, domain in search.domains.items()}
    # With the seed of the first run, its random draws would come again.
    seed = search.seed + len(samples)
    points = [dict(sample) for sample in samples] or None
    startup = search.num_startup_trials
    if name == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return OptunaSearch(
            space=OptunaSearch.convert_search_space(space),
            metric=_METRIC,
            mode=search.mode,
            points_to_evaluate=points,
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
        )
    from ray.tune.search.hyperopt import HyperOptSearch

    return HyperOptSearch(
        space=HyperOptSearch.convert_search_space(space),
        metric=_METRIC,
        mode=search.mode,
        points_to_evaluate=points,
        n_initial_points=startup,
        random_state_seed=seed,
    )


def _encoded(domain: Domain) -> Any:
    """Ray Tune's form of a domain; of a choice, whose values may be whole sections, the places in its list."""
    if isinstance(domain, Choice | Grid):
        return tune.choice(list(range(len(domain.values))))
    if isinstance(domain, Uniform):
        return tune.uniform(domain.low, domain.high)
    if isinstance(domain, LogUniform):
        return tune.loguniform(domain.low, domain.high)
    if isinstance(domain, QUniform):
        return tune.randint(0, domain.num_steps + 1)
    assert isinstance(domain, RandInt)
    return tune.randint(domain.low, domain.high + 1)


def _decoded(domain: Domain, value: Any) -> Any:
    if isinstance(domain, Choice | Grid):
        return domain.values[int(value)]
    if isinstance(domain, QUniform):
        return domain.at(int(value))
    return int(value) if isinstance(domain, RandInt) else min(max(float(value), domain.low), domain.high)


def _scheduler(search: SearchConfig, eval_steps: int) -> TrialScheduler:
    wanted = search.scheduler
    if wanted.name == "asha":
        # A trial ends by itself, with its student; no number of steps ends it here.
        return AsyncHyperBandScheduler(
            time_attr=_CLOCK,
            max_t=_NEVER,
            grace_period=wanted.grace_steps or eval_steps,
            reduction_factor=wanted.reduction_factor,
        )
    if wanted.name == "median":
        return MedianStoppingRule(
            time_attr=_CLOCK,
            grace_period=wanted.grace_steps or eval_steps,
            min_samples_required=wanted.min_trials,
            hard_stop=True,
        )
    if wanted.name == "pbt":
        return PopulationBasedTraining(
            time_attr=_CLOCK,
            perturbation_interval=wanted.perturbation_steps or eval_steps,
            hyperparam_mutations={"values": {key: _mutable(domain) for key, domain in search.domains.items()}},
            quantile_fraction=wanted.quantile,
            resample_probability=wanted.resample_probability,
            custom_explore_fn=lambda config: _inside(config, search.domains),
            log_config=False,
        )
    return FIFOScheduler()


def _mutable(domain: Domain) -> Any:
    """What population-based training moves a value in: a choice to its neighbour, a range up or down."""
    if isinstance(domain, QUniform):
        return tune.quniform(domain.low, domain.high, domain.step)
    return list(domain.values) if isinstance(domain, Choice | Grid) else _encoded(domain)


def _inside(config: Values, domains: Mapping[str, Domain]) -> Values:
    """The configuration with its values moved back into their ranges."""
    for key, domain in domains.items():
        value = config["values"][key]
        if isinstance(domain, QUniform):
            config["values"][key] = domain.at(min(max(round((value - domain.low) / domain.step), 0), domain.num_steps))
        elif not isinstance(domain, Choice | Grid):
            config["values"][key] = type(domain.low)(min(max(value, domain.low), domain.high))
    return config
