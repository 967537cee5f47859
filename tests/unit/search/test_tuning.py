"""What is tried next: drawn, listed or asked of a library, and the same first trials when a campaign goes on."""

import itertools
import statistics
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.tune.search import Searcher

from raydistill.search.config import SearchConfig
from raydistill.search.domains import QUniform, Uniform
from raydistill.search.tuning.schedulers import inside, scheduler_of
from raydistill.search.tuning.suggestions import Suggestions
from raydistill.search.tuning.trainable import name_of, number_of

RATE = "optimizer.learning_rate"
SPACE = {
    "method.temperature": {"uniform": [1, 4]},
    "method": [{"name": "kd", "alpha": 0.5}, "finetune"],
    "method.alpha": {"quniform": [0, 1, 0.1]},
    "optimizer.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "seed": {"randint": [1, 3]},
}


class Kept:
    """Stands for a campaign's record: has what earlier runs drew, and keeps what is drawn."""

    def __init__(self, earlier: Sequence[dict[str, Any]] = ()) -> None:
        self.earlier, self.drawn = list(earlier), []

    def samples(self) -> list[dict[str, Any]]:
        return self.earlier

    def suggested(self, number: int, values: dict[str, Any], sample: dict[str, Any]) -> None:
        assert number == len(self.drawn)
        self.drawn.append(sample)


def make_search(searcher: Any, space: Any = None, **changes: Any) -> SearchConfig:
    budget = {} if searcher == "grid" else {"budget": {"trials": 6}}
    base = {"name": "toy", "job": "demo", "stage": "distill", "metric": "loss", "mode": "min"}
    return SearchConfig.model_validate(
        {**base, **budget, "space": space or SPACE, "searcher": searcher, "seed": 4, **changes}
    )


def suggestions(search: SearchConfig, count: int, samples: Any = ()) -> tuple[list[Any], Kept]:
    record: Any = Kept(samples)
    suggest = Suggestions(search, record)
    found = []
    for number in range(count):
        found.append(suggest.suggest(str(number)))
        if isinstance(found[-1], dict):
            suggest.on_trial_result(str(number), {"metric": 1.0 / (number + 1), "step": 2, "training_iteration": 1})
            suggest.on_trial_complete(str(number), {"metric": 1.0 / (number + 1), "training_iteration": 1})
    return found, record


@pytest.mark.parametrize("searcher", ["random", "optuna", "hyperopt"])
def test_values_lie_in_their_domains_and_trials_end_with_the_budget(searcher: str) -> None:
    found, _ = suggestions(make_search(searcher), 7)
    assert found[6] == Searcher.FINISHED
    assert [one["number"] for one in found[:6]] == list(range(6))
    for one in found[:6]:
        values = one["values"]
        assert 1 <= values["method.temperature"] <= 4
        assert values["method"] in SPACE["method"]
        assert values["method.alpha"] in [number / 10 for number in range(11)]
        assert 1e-4 <= values["optimizer.learning_rate"] <= 1e-2
        assert values["seed"] in (1, 2, 3)
    assert len({one["values"]["method.temperature"] for one in found[:6]}) == 6


@pytest.mark.parametrize("searcher", ["random", "optuna", "hyperopt"])
def test_a_campaign_that_goes_on_suggests_what_it_had_first_and_then_something_new(searcher: str) -> None:
    first, record = suggestions(make_search(searcher), 3)
    again, _ = suggestions(make_search(searcher), 6, record.drawn)
    assert again[:3] == first
    drawn = [one["values"]["optimizer.learning_rate"] for one in again]
    assert len(set(drawn)) == 6


def test_random_draws_of_a_campaign_that_goes_on_are_those_of_one_that_was_never_stopped() -> None:
    whole, _ = suggestions(make_search("random"), 6)
    _, record = suggestions(make_search("random"), 3)
    again, _ = suggestions(make_search("random"), 6, record.drawn)
    assert again == whole


def test_a_grid_has_all_combinations_once() -> None:
    space = {"method.temperature": [1, 2, 3], "method.alpha": {"grid": [0.5, 1.0]}}
    found, _ = suggestions(make_search("grid", space), 7)
    pairs = [tuple(one["values"].values()) for one in found[:6]]
    assert sorted(pairs) == sorted(itertools.product([1, 2, 3], [0.5, 1.0]))
    assert found[6] == Searcher.FINISHED


def test_the_learning_searchers_learn() -> None:
    space = {"method.temperature": {"uniform": [0, 1]}}
    for searcher in ("optuna", "hyperopt"):
        options = {"name": searcher, "num_startup_trials": 10}
        record: Any = Kept()
        suggest = Suggestions(make_search(options, space, budget={"trials": 40}), record)
        drawn = []
        for number in range(40):
            suggested: Any = suggest.suggest(str(number))
            drawn.append(suggested["values"]["method.temperature"])
            suggest.on_trial_complete(str(number), {"metric": (drawn[-1] - 0.8) ** 2, "training_iteration": 1})
        # Of values drawn at random the median is 0.3 away.
        assert statistics.median(abs(value - 0.8) for value in drawn[20:]) < 0.2


def test_values_that_population_based_training_moved_stay_in_their_ranges() -> None:
    domains = {"a": Uniform(1.0, 4.0), "b": QUniform(0.0, 1.0, 0.25)}
    moved = inside({"values": {"a": 4.8, "b": 0.6}}, domains)
    assert moved["values"] == {"a": 4.0, "b": 0.5}
    assert inside({"values": {"a": 0.5, "b": 1.4}}, domains)["values"] == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("name", ["fifo", "asha", "median", "pbt"])
def test_schedulers_are_made_with_the_steps_of_an_evaluation(name: str) -> None:
    space = {"method.temperature": {"uniform": [1, 4]}, "method.alpha": {"quniform": [0, 1, 0.1]}}
    made: Any = scheduler_of(make_search("random", space, scheduler=name), 25)
    grace = {"asha": "_brackets", "median": "_grace_period", "pbt": "_perturbation_interval"}.get(name)
    if name == "asha":
        assert [milestone for milestone, _ in made._brackets[0]._rungs][-1] == 25
    elif grace is not None:
        assert getattr(made, grace) == 25


def member(number: int, rate: float) -> Any:
    """A trial of a population as a scheduler of Ray Tune sees it."""
    trial = MagicMock(config={"number": number, "values": {RATE: rate}}, status="RUNNING", checkpoint=None)
    trial.is_finished.return_value = False
    trial.run_metadata.checkpoint_manager.checkpoint_config.num_to_keep = None
    return trial


def test_a_trial_goes_on_from_the_state_of_one_that_reported_before_there_were_others() -> None:
    search = make_search("random", {RATE: {"uniform": [0.1, 0.5]}}, scheduler={"name": "pbt", "quantile": 0.5})
    scheduler: Any = scheduler_of(search, 2)
    scheduler.set_search_properties("metric", "min")
    best, worst = member(0, 0.3), member(1, 0.2)
    controller = MagicMock(search_alg=None)
    controller.get_trials.return_value = [best, worst]
    for trial in (best, worst):
        scheduler.on_trial_add(controller, trial)
    assert scheduler.on_trial_result(controller, best, {"metric": 0.1, "clock": 2}) == "CONTINUE"
    best.checkpoint = "state of the best"
    scheduler.on_trial_result(controller, worst, {"metric": 0.9, "clock": 2})
    assert worst.run_metadata.checkpoint_manager._latest_checkpoint_result.checkpoint == "state of the best"
    controller.pause_trial.assert_called_once_with(worst, should_checkpoint=False)
    [configuration] = worst.set_config.call_args.args
    assert configuration["values"][RATE] != 0.3
    assert 0.1 <= configuration["values"][RATE] <= 0.5


def test_a_copy_keeps_its_number_though_it_has_the_configuration_of_another() -> None:
    trial = SimpleNamespace(custom_trial_name="trial-003", config={"number": 1})
    assert number_of(name_of(trial)) == 3
