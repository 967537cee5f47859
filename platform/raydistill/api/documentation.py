"""The docstring of a method's public class, put together from what its module says of source, terms and options."""

import ast
import dataclasses
import inspect
import textwrap
from types import ModuleType
from typing import Any

_EXAMPLE = ">>>"
_LOSS = """\
Shapes, units and errors: ``build(student, teachers)`` gives a ``Distillation``, which makes a 0-d loss, in nats or
squared units, of a padded batch with ``input_ids`` (B, T). Raises ValueError for an option, a model or a batch that
the method cannot take."""


def documentation(module: ModuleType) -> str:
    """What the method does and where it is from, its loss, its options, and its example."""
    summary, _, source = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    loss, mark, example = inspect.cleandoc(module.Method.__doc__ or "").partition(_EXAMPLE)
    options = "\n".join(
        f"{name}: {default}\n{textwrap.indent(meaning, '    ')}" for name, default, meaning in options_of(module.Config)
    )
    parts = [summary, f"Source: {source}", f"The loss is {loss.strip()}", _LOSS, options and f"Options:\n\n{options}"]
    return "\n\n".join(part for part in (*parts, (mark + example).strip()) if part) + "\n"


def options_of(config: Any) -> list[tuple[str, str, str]]:
    """Name, type with default, and meaning of each option of a dataclass, in its order."""
    meanings: dict[str, str] = {}
    for owner in reversed(config.__mro__[:-1]):
        meanings |= _meanings(owner)
    return [(field.name, _declared(field), meanings.get(field.name, "")) for field in dataclasses.fields(config)]


def _declared(field: "dataclasses.Field[Any]") -> str:
    kind = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
    return kind if field.default is dataclasses.MISSING else f"{kind} = {field.default!r}"


def _meanings(owner: type) -> dict[str, str]:
    """The strings that stand under the fields of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found
