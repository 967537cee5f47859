"""The docstring of a method's public class, put together from what its module says of source, terms and options."""

import inspect
from types import ModuleType

from raydistill.options import EXAMPLE, listed

_LOSS = """\
Shapes, units and errors: ``build(student, teachers)`` gives a ``Distillation``, which makes a 0-d loss, in nats or
squared units, of a padded batch with ``input_ids`` (B, T). Raises ValueError for an option, a model or a batch that
the method cannot take."""


def documentation(module: ModuleType) -> str:
    """What the method does and where it is from, its loss, its options, and its example."""
    summary, _, source = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    loss, mark, example = inspect.cleandoc(module.Method.__doc__ or "").partition(EXAMPLE)
    parts = [summary, f"Source: {source}", f"The loss is {loss.strip()}", _LOSS, listed("Options", module.Config)]
    return "\n\n".join(part for part in (*parts, (mark + example).strip()) if part) + "\n"
