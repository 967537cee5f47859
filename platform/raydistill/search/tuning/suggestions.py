"""What is tried next."""

from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from raydistill.search.config import SearchConfig
from raydistill.search.domains import Choice, Domain, LogUniform, QUniform, RandInt, Uniform, Values
from raydistill.search.records import CampaignRecord
from raydistill.search.tuning.trainable import METRIC


class Suggestions(Searcher):
    """Numbers trials, draws at random or by grid itself, and asks a library's searcher for the rest."""

    def __init__(self, search: SearchConfig, record: CampaignRecord) -> None:
        super().__init__(metric=METRIC, mode=search.mode)
        self._search, self._record = search, record
        self._inner = _inner(search, record.samples())
        self._grid = list(search.combinations()) if search.searcher.name == "grid" else []
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Values | str | None:
        """The number and the values of the next trial; as Ray asks, a word when all are made, None to wait."""
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
            sample = values = self._grid[number]
        else:
            sample = values = self._search.at_random(number)
        self._numbers[trial_id] = number
        self._record.suggested(number, values, sample)
        return {"number": number, "values": values}

    def on_trial_result(self, trial_id: str, result: Values) -> None:
        """Pass it on."""
        if self._inner is not None:
            self._inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Values | None = None, error: bool = False) -> None:
        """Pass it on."""
        if self._inner is not None:
            self._inner.on_trial_complete(trial_id, result, error)

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """Nothing: all is known from the start."""
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed campaign tells its searcher the trials again."""


def _inner(search: SearchConfig, samples: Sequence[Values]) -> Searcher | None:
    """A library's searcher, which suggests ``samples`` first."""
    name = search.searcher.name
    if name not in ("optuna", "hyperopt"):
        return None
    space = {key: encoded(domain) for key, domain in search.domains.items()}
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
            metric=METRIC,
            mode=search.mode,
            points_to_evaluate=points,
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
        )
    from ray.tune.search.hyperopt import HyperOptSearch

    return HyperOptSearch(
        space=HyperOptSearch.convert_search_space(space),
        metric=METRIC,
        mode=search.mode,
        points_to_evaluate=points,
        n_initial_points=startup,
        random_state_seed=seed,
    )


def encoded(domain: Domain) -> Any:
    """Ray Tune's form of a domain; of a choice, whose values may be whole sections, the places in its list."""
    if isinstance(domain, Choice):
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
    if isinstance(domain, Choice):
        return domain.values[int(value)]
    if isinstance(domain, QUniform):
        return domain.at(int(value))
    return int(value) if isinstance(domain, RandInt) else min(max(float(value), domain.low), domain.high)
