"""The sections of a space file: the job it varies, what is searched, how, and how much of it."""

import itertools
import math
import random
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from raydistill.config.sections import ScalingConfig, Section
from raydistill.search import domains
from raydistill.search.domains import Choice, Domain, Grid, Values
from raydistill.user_error import UserError

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:s|min|h|d))+")

DomainField = Annotated[Any, BeforeValidator(domains.parse), PlainSerializer(lambda domain: domain.dump())]


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


_READ_BY = {
    "num_startup_trials": ("optuna", "hyperopt"),
    "grace_steps": ("asha", "median"),
    "reduction_factor": ("asha",),
    "min_trials": ("median",),
    "perturbation_steps": ("pbt",),
    "quantile": ("pbt",),
    "resample_probability": ("pbt",),
}
"""Options of searchers and schedulers that not all of them read."""


def _check_read(section: Section, name: str) -> None:
    """Raise ValueError for an option that the searcher or scheduler of this name does not read."""
    for key, field in type(section).model_fields.items():
        value, names = getattr(section, key), _READ_BY.get(key, (name,))
        if name not in names and value != field.default:
            readers = " and ".join(names)
            raise UserError(f"{key} is {value}, which only {readers} read, but name is {name!r}; leave it out")


class SearcherConfig(Section):
    """How the values of the next trial are chosen."""

    name: Literal["random", "grid", "optuna", "hyperopt"] = "random"
    """``random`` draws them; ``grid`` tries all combinations of choices; ``optuna`` and ``hyperopt`` (tree-structured
    Parzen estimators) learn from finished trials."""
    num_startup_trials: Annotated[int, Field(ge=1)] | None = None
    """The number of trials that ``optuna`` and ``hyperopt`` draw at random before they learn; by default a third of
    all, and at most 10."""

    @model_validator(mode="after")
    def _options(self) -> "SearcherConfig":
        _check_read(self, self.name)
        return self


class SchedulerConfig(Section):
    """Which trials end early; steps are optimizer steps, at which the stage evaluates."""

    name: Literal["fifo", "asha", "median", "pbt"] = "fifo"
    """``fifo`` ends none. ``asha`` ends those that are not among the best at a rung of steps. ``median`` ends those
    below the median of the others. ``pbt`` replaces the worst by copies of the best with other values."""
    grace_steps: Annotated[int, Field(ge=1)] | None = None
    """The steps that every trial of ``asha`` and ``median`` has; by default those of the first evaluation."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """One of this many trials goes on from a rung of ``asha``, to a rung of this many times the steps."""
    min_trials: Annotated[int, Field(ge=1)] = 3
    """The number of trials that ``median`` needs to have seen before it ends any."""
    perturbation_steps: Annotated[int, Field(ge=1)] | None = None
    """The steps between the exchanges of ``pbt``; by default those between two evaluations."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """The fraction of the trials that ``pbt`` replaces, and the fraction that it copies."""
    resample_probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    """How often ``pbt`` draws a value anew instead of moving it a little."""

    @model_validator(mode="after")
    def _options(self) -> "SchedulerConfig":
        _check_read(self, self.name)
        return self


class BudgetConfig(Section):
    """When a campaign starts no further trial."""

    trials: Annotated[int, Field(ge=1)] | None = None
    """The number of trials. The searcher ``grid`` has as many as there are combinations."""
    time: str | None = None
    """The time over all runs of the campaign, such as ``15min`` or ``1h30min``. Trials that run when it is over are
    stopped and count with what they reached. What trials share, such as the corpus and the teacher, is made before and
    does not count."""

    @field_validator("time")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        if value is not None and (not _DURATION.fullmatch(value) or seconds(value) <= 0):
            raise UserError("write a time such as 90s, 15min, 1h30min or 2d")
        return value

    @property
    def time_s(self) -> float | None:
        """The time in seconds."""
        return None if self.time is None else seconds(self.time)


class SearchConfig(Section):
    """A space file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=200)]
    """The name of the campaign's folder and of its MLflow run: letters, digits, ``_`` and ``-``."""
    description: str = ""
    """One sentence for ``raydistill ls spaces``."""
    job: str
    """The job that is varied: a file, or the name of a shipped job."""
    overrides: dict[str, Any] = {}
    """Dotted keys of the job with the values that they have in every trial."""
    stage: str
    """The training stage that is searched. Trials share the outputs of the stages before it."""
    space: Annotated[dict[str, DomainField], Field(min_length=1)]
    """Dotted keys that are searched: of the stage itself (``method.temperature``), or as a job's command line has them
    (``distill.method.temperature``). A list is a choice; or ``choice``, ``uniform``, ``loguniform``, ``quniform``,
    ``randint``, ``grid``."""
    metric: str
    """The metric that is compared, named as in ``training.metric_for_best_model``: ``loss``, ``accuracy``,
    ``validation/ce``."""
    mode: Literal["min", "max"]
    """Whether the least or the greatest value is the best."""
    searcher: Annotated[SearcherConfig, BeforeValidator(_named)] = SearcherConfig()
    """The searcher's name and options, or its name alone."""
    scheduler: Annotated[SchedulerConfig, BeforeValidator(_named)] = SchedulerConfig()
    """The scheduler's name and options, or its name alone."""
    budget: BudgetConfig = BudgetConfig()
    """How much is tried."""
    resources: ScalingConfig | None = None
    """The processes of a trial; by default those that the job gives the stage."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """The maximum number of trials at a time; by default as many as the cluster has room for."""
    seed: int = 42
    """The seed by which values are drawn. Trainings keep the job's seed."""
    storage: str | None = None
    """The folder in which the campaign's folder lies; by default the job's ``storage``."""

    @model_validator(mode="after")
    def _consistent(self) -> "SearchConfig":
        self._check_grid()
        if self.searcher.name != "grid" and self.budget.trials is None:
            raise UserError("budget.trials is missing; say how many trials to make")
        return self

    def _check_grid(self) -> None:
        """Raise ValueError for domains that the searcher does not take."""
        for key, domain in self.space.items():
            if self.searcher.name == "grid" and not isinstance(domain, Choice):
                raise UserError(
                    f"space.{key} is a range, but searcher grid tries all values; list them, or choose searcher random"
                )
            if self.searcher.name != "grid" and isinstance(domain, Grid):
                raise UserError(
                    f"space.{key} is a grid, but searcher {self.searcher.name} draws values; write choice in place of "
                    "grid, or searcher: grid"
                )
        if self.searcher.name == "grid" and self.budget.trials not in (None, self.num_trials):
            raise UserError(
                f"budget.trials is {self.budget.trials}, but the grid has {self.num_trials} combinations; leave it out"
            )
        if self.searcher.name == "grid" and self.scheduler.name == "pbt":
            raise UserError("scheduler is pbt, which draws values, but searcher is grid; choose searcher random")

    @property
    def domains(self) -> dict[str, Domain]:
        """What each searched key may be."""
        return dict(self.space)

    @property
    def num_trials(self) -> int:
        """Trials of the whole campaign."""
        if self.searcher.name == "grid":
            return math.prod(len(domain.values) for domain in self.space.values())
        assert self.budget.trials is not None
        return self.budget.trials

    def combinations(self) -> Iterator[Values]:
        """All combinations of the choices of searcher ``grid``, in the order in which they are tried."""
        for values in itertools.product(*(domain.values for domain in self.space.values())):
            yield dict(zip(self.space, values, strict=True))

    def at_random(self, number: int) -> Values:
        """Values drawn for a trial, of seed and number alone, so that a resumed campaign draws the same."""
        rng = random.Random(f"{self.seed}/{number}")
        return {key: domain.sample(rng) for key, domain in self.space.items()}

    @property
    def num_startup_trials(self) -> int:
        """Trials that a searcher which learns draws at random first."""
        return self.searcher.num_startup_trials or max(1, min(10, self.num_trials // 3))


def seconds(text: str) -> float:
    """A time such as ``1h30min`` in seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(s|min|h|d)", text)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
