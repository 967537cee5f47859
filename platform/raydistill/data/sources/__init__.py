"""Where rows come from; one file a source, its name the file's, and a public class made of it for jobs in Python.

Shapes, units and origins: see each one. Raises AttributeError for a source that there is not, and ImportError, of one
line, where it needs a package that is not installed.

>>> rd.sources.Delimited("reviews.csv", text="review").as_data()
{'name': 'delimited', 'path': 'reviews.csv', 'text': 'review'}
"""

from typing import Any

from raydistill.options import public_name


def __getattr__(name: str) -> Any:
    """Make the public class of a source."""
    return public_name(__name__, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])
