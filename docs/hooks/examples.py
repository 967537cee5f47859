"""Examples of docstrings as blocks of code, for pages that griffe reads from the source."""

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"(?:^|\n\n)(>>> .*?)(?=\n\n|\Z)", re.DOTALL)


class Examples(Extension):
    """Puts a fence around each example, which Markdown would take for quotations."""

    def on_object(self, *, obj: Object, **rest: Any) -> None:
        """Rewrite the docstring of an object that griffe has found."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"\n\n```pycon\n\1\n```", obj.docstring.value)
