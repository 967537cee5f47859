"""Tasks: what an example means; one file a task, its name the file's, and a public class made of it for jobs in Python.

``rd.tasks.Classification(max_length=128)`` stands for a task with its options, or for an encoding with those of one.
Shapes, units and sources: see each one. Raises AttributeError for a task that there is not.

>>> rd.tasks.Classification(max_length=128).as_data()
{'name': 'classification', 'max_length': 128}
"""

from typing import Any

from raydistill.options import public_name


def __getattr__(name: str) -> Any:
    """Make the public class of a task."""
    return public_name(__name__, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])
