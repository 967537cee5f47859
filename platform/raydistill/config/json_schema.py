"""JSON schemas of job files and search spaces, for editors that complete and check YAML.

They take whatever the platform takes, and some that it refuses: a key may have its value from a matrix, so that none
below a stage is required, and what is written in one word has the word's type alone.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/{model}"


class _Generator(GenerateJsonSchema):
    """Sections as they are written: with their short forms, and without what a matrix may bring."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        # Numbers have such functions too, which make none of a word.
        if schema["schema"]["type"] in ("int", "float"):
            return inner
        # One item may stand for a list of one.
        items = [inner["items"]] if inner.get("items") else []
        return {"anyOf": [inner, *items, {"type": ["string", "number", "array"]}]} if inner else {}

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        # It closes what is outside of the short forms, where the keys are not.
        if "anyOf" in found and found.pop("additionalProperties", None) is False:
            inner = found
            while "anyOf" in inner:
                inner = inner["anyOf"][0]
            inner["additionalProperties"] = False
        return found

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        found = super().tagged_union_schema(schema)
        return {"anyOf": found.get("oneOf", []) or found.get("anyOf", [])}


def of_job(job: type[BaseModel], stages: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The schema of a job, given the configuration of each kind of stage."""
    wanted: list[Any] = [(kind, "validation") for kind in (job, *stages.values())]
    placed, whole = models_json_schema(wanted, schema_generator=_Generator, ref_template=_REFERENCE)
    definitions = _without_required(whole["$defs"])
    found = {"$schema": _DIALECT, **_inlined(placed[job, "validation"], whole["$defs"]), "$defs": definitions}
    found["properties"] = {
        **found["properties"],
        "stages": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["kind"],
                "properties": {"kind": {"enum": list(stages)}},
                "allOf": [
                    {"if": {"properties": {"kind": {"const": name}}}, "then": placed[config, "validation"]}
                    for name, config in stages.items()
                ],
            },
        },
    }
    return found


def of_space(space: type[BaseModel]) -> dict[str, Any]:
    """The schema of a search space."""
    return {"$schema": _DIALECT, **space.model_json_schema(schema_generator=_Generator)}


def _inlined(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A definition in place of the reference to it."""
    return dict(definitions[schema["$ref"].rpartition("/")[2]])


def _without_required(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_required(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_required(each) for key, each in value.items() if not (key == "required" and type(each) is list)
    }
