"""What every section of a job keeps, and every number of one: no truth value, finite, 64 bits."""

from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from raydistill.config.errors import with_choices

FINITE = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of sections and of modules' options: unknown keys are refused, and numbers that are infinite or none."""
_MOST = 2**63 - 1
_MARK = "raydistill.number"


def with_plain_numbers(schema: CoreSchema) -> CoreSchema:
    """The schema with the rule on all its numbers, those of containers too; it is changed in place.

    Python takes ``true`` for 1, and whole numbers of any size, which no draw, step or tensor can have.
    """
    _walk(schema)
    return schema


def _walk(node: Any, *, in_union: bool = False) -> None:
    if isinstance(node, list | tuple):
        for item in node:
            _walk(item, in_union=in_union)
    if not isinstance(node, dict) or _MARK in (node.get("metadata") or {}):
        return
    kind = node.get("type")
    if kind not in ("int", "float"):
        for key, inner in node.items():
            if key not in ("default", "metadata", "serialization"):
                _walk(inner, in_union=kind == "union")
    elif in_union:
        # The other types of the union are tried too, so that a word stays a word.
        node["strict"] = True
    else:
        check = _refuse_no_int if kind == "int" else _refuse_truth
        made = core_schema.no_info_before_validator_function(check, dict(node), metadata={_MARK: True})
        node.clear()
        node.update(made)


def _refuse_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("no_number", "it should be a number, not true or false")
    return value


def _refuse_no_int(value: Any) -> Any:
    _refuse_truth(value)
    if isinstance(value, int | float) and not -_MOST <= value <= _MOST:
        raise PydanticCustomError("no_number", "it should be a whole number below 2**63")
    return value


class Section(BaseModel):
    """A part of a job file: unknown keys are refused, values do not change after validation."""

    model_config = ConfigDict(**FINITE, frozen=True, use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return with_plain_numbers(handler(source))

    @model_validator(mode="wrap")
    @classmethod
    def _tell_choices(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise with_choices(error, cls.model_fields) from None
