"""Hand a campaign's trials to Ray Tune."""

import logging
import math
import os
import random
import shutil
from concurrent.futures import wait
from dataclasses import replace
from typing import Any

import ray
from ray import tune

from raydistill.config.sections import ScalingConfig
from raydistill.search.config import SearchConfig
from raydistill.search.domains import Values
from raydistill.search.records import CampaignRecord
from raydistill.search.trial import TrialContext, in_thread
from raydistill.search.tuning.schedulers import exchange_steps, scheduler_of
from raydistill.search.tuning.suggestions import Suggestions
from raydistill.search.tuning.trainable import EVENT, METRIC, name_of, number_of, trainable

_KEPT_STATES = 4
"""Latest states that are kept of each trial of a population; copies are made of the latest."""
_THREAD_END_S = 20
"""How long Ray Tune may take to end the trials after Ctrl-C."""


def run_trials(
    search: SearchConfig, context: TrialContext, record: CampaignRecord, *, scaling: ScalingConfig, eval_steps: int
) -> None:
    """Run trials until the budget is used; what earlier runs recorded is told to searcher and scheduler first.

    ``eval_steps`` are the optimizer steps between two evaluations. Ctrl-C is raised at once in the caller.
    """
    folder = context.folder / ".tune"
    shutil.rmtree(folder, ignore_errors=True)
    # Ray Tune's newer output prints even when it is told to be quiet.
    quiet = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    # A trial stays in the folder of the command, to which paths of its job are relative.
    os.environ.update(quiet, RAY_CHDIR_TO_TRIAL_DIR="0")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    random.seed(search.seed)
    is_population = search.scheduler.name == "pbt"
    if is_population:
        context = replace(context, exchange_steps=exchange_steps(search, eval_steps))
    given_up = _GivenUp()
    tuner = tune.Tuner(
        tune.with_resources(trainable(context), _resources(scaling, context)),
        param_space=_population(search, context, record) if is_population else None,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode=search.mode,
            num_samples=1 if is_population else search.num_trials,
            search_alg=None if is_population else Suggestions(search, record),
            scheduler=scheduler_of(search, eval_steps),
            # A population is alive as a whole, and takes turns where there is no room for all.
            max_concurrent_trials=None if is_population else context.parallel,
            time_budget_s=record.time_left_s,
            # An ended group of workers goes with the process that started it.
            reuse_actors=scaling.num_workers == 1,
            trial_name_creator=name_of,
            trial_dirname_creator=name_of,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_KEPT_STATES),
            callbacks=[_Callback(record)],
            stop=given_up,
            verbose=0,
        ),
    )
    try:
        _fit(tuner, given_up, record)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _population(search: SearchConfig, context: TrialContext, record: CampaignRecord) -> Values:
    """All trials at once: population-based training takes no searcher.

    Those that ended in an earlier run are left out, since nothing can be copied from them.
    """
    left = [number for number in range(search.num_trials) if number not in context.recorded]
    drawn = {number: search.at_random(number) for number in left}
    for number, values in drawn.items():
        record.suggested(number, values, values)
    return {"number": tune.grid_search(left), "values": tune.sample_from(lambda config: dict(drawn[config["number"]]))}


class _GivenUp(tune.Stopper):
    """Ends all trials once it is told to."""

    is_set = False

    def __call__(self, trial_id: str, result: Any) -> bool:
        return False

    def __deepcopy__(self, memo: Any) -> "_GivenUp":
        return self

    def stop_all(self) -> bool:
        return self.is_set


def _fit(tuner: tune.Tuner, given_up: _GivenUp, record: CampaignRecord) -> None:
    """Fit in a thread, where Ray Tune leaves Ctrl-C alone: its own handler would go on for a while."""
    outcome = in_thread(tuner.fit)
    try:
        outcome.result()
    finally:
        # After Ctrl-C trials are ended here, which is no failure of theirs; and a thread that went on without a cluster
        # would start one.
        record.over()
        given_up.is_set = True
        wait([outcome], _THREAD_END_S)


def _resources(scaling: ScalingConfig, context: TrialContext) -> Any:
    if scaling.num_workers > 1:
        # The workers ask for their own; something has to be asked for, and a byte is everywhere.
        return tune.PlacementGroupFactory([{"memory": 1}])
    cpus: float = scaling.cpus_per_worker
    if context.exchange_steps is not None:
        # So large that no more of them fit than are asked for, beside the tasks that store teacher outputs.
        room = int(ray.cluster_resources()["CPU"]) - max(1, scaling.data_cpus)
        cpus = max(cpus, math.floor(100 * room / context.parallel) / 100)
    return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": 1} if scaling.use_gpu else {"CPU": cpus}])


class _Callback(tune.Callback):
    """Passes on to the campaign's record what Ray Tune calls back with."""

    def __init__(self, record: CampaignRecord) -> None:
        self._record = record

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._record.started(number_of(name_of(trial)))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self._record.reported(result[EVENT])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._record.done(number_of(name_of(trial)))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._record.failed(number_of(name_of(trial)))
