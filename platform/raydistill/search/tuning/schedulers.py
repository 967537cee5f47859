"""Which trials end early, and which are copied."""

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from raydistill.search.config import SearchConfig
from raydistill.search.domains import Choice, Domain, QUniform, Values
from raydistill.search.tuning.suggestions import encoded
from raydistill.search.tuning.trainable import CLOCK

_NEVER = 10**9


def scheduler_of(search: SearchConfig, eval_steps: int) -> TrialScheduler:
    """The scheduler of a search; ``eval_steps`` are the optimizer steps between two evaluations."""
    wanted = search.scheduler
    if wanted.name == "asha":
        # A trial ends by itself, with its student; no number of steps ends it here.
        return AsyncHyperBandScheduler(
            time_attr=CLOCK,
            max_t=_NEVER,
            grace_period=wanted.grace_steps or eval_steps,
            reduction_factor=wanted.reduction_factor,
        )
    if wanted.name == "median":
        return MedianStoppingRule(
            time_attr=CLOCK,
            grace_period=wanted.grace_steps or eval_steps,
            min_samples_required=wanted.min_trials,
            hard_stop=True,
        )
    if wanted.name == "pbt":
        return _Population(
            time_attr=CLOCK,
            perturbation_interval=exchange_steps(search, eval_steps),
            hyperparam_mutations={"values": {key: _mutable(domain) for key, domain in search.domains.items()}},
            quantile_fraction=wanted.quantile,
            resample_probability=wanted.resample_probability,
            custom_explore_fn=lambda config: inside(config, search.domains),
            log_config=False,
        )
    return FIFOScheduler()


def exchange_steps(search: SearchConfig, eval_steps: int) -> int:
    """Optimizer steps between the exchanges of a population."""
    return search.scheduler.perturbation_steps or eval_steps


class _Population(PopulationBasedTraining):
    """Ray's, but a trial can be copied whenever it has a state.

    Ray keeps the state of a trial that is among the best when it reports itself, and forgets those of all others: in a
    small population the best are often so only since others reported, and nothing is ever copied.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Values) -> str:
        for other, known in self._trial_state.items():
            if known.last_checkpoint is None:
                known.last_checkpoint = other.checkpoint
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision


def _mutable(domain: Domain) -> Any:
    """What population-based training moves a value in: a choice to its neighbour, a range up or down."""
    if isinstance(domain, QUniform):
        return tune.quniform(domain.low, domain.high, domain.step)
    return list(domain.values) if isinstance(domain, Choice) else encoded(domain)


def inside(config: Values, domains: Mapping[str, Domain]) -> Values:
    """The configuration with its values moved back into their ranges."""
    for key, domain in domains.items():
        value = config["values"][key]
        if isinstance(domain, QUniform):
            config["values"][key] = domain.at(min(max(round((value - domain.low) / domain.step), 0), domain.num_steps))
        elif not isinstance(domain, Choice):
            config["values"][key] = type(domain.low)(min(max(value, domain.low), domain.high))
    return config
