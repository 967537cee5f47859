"""The configuration of a training whose learning rate, or another number, an earlier stage has chosen."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raydistill.config.matrix import SEED, Assignment, axes
from raydistill.config.overrides import set_value
from raydistill.data.storage import Folder
from raydistill.stages._base import RECORD, Inputs, ModelFacts, planned
from raydistill.user_error import UserError

if TYPE_CHECKING:
    from raydistill.stages.train import Config


def tuned(config: "Config", inputs: Inputs) -> tuple["Config", dict[str, Any]]:
    """The configuration with what the stage ``tuned_by`` chose, which it no longer names, and the chosen values by key.

    Before the choice is made it is that of the first run that may be chosen. Raises ValueError for a stage that chooses
    nothing, for runs that differ in what is no number, and where one of them does not fit this stage.
    """
    name = config.tuned_by or ""
    facts = planned(ModelFacts, name, inputs)
    if facts is None or not facts.choices:
        raise UserError(f"tuned_by is {name!r}; name an earlier choose stage")
    found = [_values(config, one) for one in facts.choices]
    configs = [_with(config, values) for values in found]
    folder = inputs[name].folder
    if folder is None:
        return configs[0], found[0]
    record = json.loads(Folder(folder).read_bytes(RECORD))
    chosen = _values(config, record["summary"]["assignment"])
    return configs[found.index(chosen)], chosen


def _values(config: "Config", assignment: Assignment) -> dict[str, Any]:
    """What is taken of the matrix keys of a run: all but the seed."""
    values = {key: value for key, value in assignment.items() if key != SEED}
    if not values:
        raise UserError(f"tuned_by is {config.tuned_by!r}, which chooses only among seeds; leave it out")
    for key, value in values.items():
        if isinstance(value, str):
            raise UserError(
                f"tuned_by is {config.tuned_by!r}, whose runs differ in {key}, {value!r}; only numbers can be "
                "taken over"
            )
        if key in axes(config.matrix):
            raise UserError(f"tuned_by is {config.tuned_by!r}, which chooses {key}, but matrix has it; leave one out")
    return values


def _with(config: "Config", values: Mapping[str, Any]) -> "Config":
    raw = config.model_dump(mode="json", exclude={"tuned_by"})
    for key, value in values.items():
        set_value(raw, key.split("."), value)
    return type(config).model_validate(raw)
