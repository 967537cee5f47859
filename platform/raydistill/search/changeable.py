"""Which searched keys may change while a training runs, as population-based training changes them."""

import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from raydistill.config.errors import UserError
from raydistill.config.sections import ScalingConfig
from raydistill.search.config import SearchConfig
from raydistill.search.domains import Choice, Domain, Grid, is_number
from raydistill.search.spaces import job_data, locate

_OPTIMIZER = ("learning_rate", "weight_decay", "max_grad_norm")
"""Keys of ``optimizer`` that decide nothing before the first step; the moments stay those of the copied trial."""


def check_changeable(search: SearchConfig, stage: Any) -> None:
    """Raise UserError, a line each, for keys that a copied trial cannot take over with another value.

    ``stage`` is the configuration of the searched stage. Numbers that weigh, cut or scale a loss can change, and those
    of the optimizer's step; what shapes models, batches or the length of the training cannot.
    """
    raw = job_data(search)
    problems = [
        f"space.{key} cannot change in mid-run, which scheduler pbt needs; leave it out, or choose asha"
        for key, domain in search.domains.items()
        if not _may_change(locate(raw, search.stage, key), domain, stage, search.stage)
    ]
    if problems:
        raise UserError(problems)


def check_copyable(scaling: ScalingConfig) -> None:
    """Raise UserError for trials whose state another cannot take over."""
    if scaling.num_workers > 1:
        raise UserError(
            [
                f"scheduler is pbt, which copies trials of one worker, but a trial has {scaling.num_workers}; "
                "write resources: {num_workers: 1}, or choose asha"
            ]
        )


def _may_change(path: list[str], domain: Domain, stage: Any, name: str) -> bool:
    if isinstance(domain, Choice | Grid) and not all(map(is_number, domain.values)):
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
