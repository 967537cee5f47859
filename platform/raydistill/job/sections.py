"""Sections of a job file as Python objects, such as ``rd.sections.Training(num_epochs=1)``; ``dir`` lists them.

Each is named after its section: ``Training``, ``Optimizer``, ``Scaling``, ``Student``, ``Teacher``, ``Model``. Shapes,
units and sources: see each one. Raises AttributeError for a section that there is not.

>>> rd.sections.Training(num_epochs=1, batch_size=16).as_data()
{'num_epochs': 1, 'batch_size': 16}
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from raydistill import discovery
from raydistill.config.sections import ModelRef, Section, StudentConfig
from raydistill.job.load import STAGES, JobConfig, stage_type
from raydistill.options import Options, options_class, section_documentation, signature_of

_ENDINGS = ("Config", "Ref")


@cache
def _sections() -> dict[str, type[Section]]:
    """The sections below those of a job and of its stages, by their public names."""
    tops: list[type[Section]] = [JobConfig, *(stage_type(kind).config_type for kind in discovery.names(STAGES))]
    found = {section.__name__: section for top in tops for section in _below(top)}
    return {_public(name): section for name, section in sorted(found.items())}


def _below(section: type[Section]) -> Iterator[type[Section]]:
    for field in section.model_fields.values():
        for inner in _inside(field.annotation):
            yield inner
            yield from _below(inner)


def _inside(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)


def _public(name: str) -> str:
    return next(name.removesuffix(ending) for ending in (*_ENDINGS, "") if name.endswith(ending))


@cache
def _class_of(name: str) -> type[Options]:
    section = _sections()[name]
    text = section_documentation(section, f"rd.sections.{name}")
    return options_class(name, signature_of(section), text, module=__name__)


def __getattr__(name: str) -> Any:
    """Make the public class of a section."""
    if name == "__all__":
        return list(_sections())
    if not name[:1].isupper() or name not in _sections():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _class_of(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])


def from_checkpoint(model: Any, **options: Any) -> Options:
    """A student that starts as a model is: a folder, a hub name, or a stage of the job.

    ``head="new"`` starts a head where the model has none that the task needs. Further ``options`` are those of
    ``rd.sections.Model`` and of ``rd.sections.Student``. Shapes and units: none. Raises UserError, when the student
    enters a job, for an option that there is not. Source: ``init: checkpoint`` of a job file.

    >>> rd.from_checkpoint("google-bert/bert-base-uncased", head="new").as_data()
    {'init': 'checkpoint', 'checkpoint': {'checkpoint': 'google-bert/bert-base-uncased', 'head': 'new'}}
    """
    return _student(model, options, init="checkpoint")


def from_layers(model: Any, layers: list[int], *, head: str = "new", **options: Any) -> Options:
    """A student with the embeddings and chosen blocks, from 0, of a model: a folder, a hub name, or a stage.

    ``head="new"`` starts a head where the model has none that fits, ``"pretrained"`` refuses such a model. Further
    ``options`` are those of ``rd.sections.Model`` and of ``rd.sections.Student``. Shapes and units: none. Raises
    UserError, when the student enters a job, for an option that there is not. Source: ``init: layers`` of a job file.

    >>> rd.from_layers("google-bert/bert-base-uncased", [0, 4, 8]).as_data()["layers"]
    [0, 4, 8]
    """
    return _student(model, {"head": head, **options}, init="layers", layers=layers)


def _student(model: Any, options: dict[str, Any], **start: Any) -> Options:
    of_model = {key: value for key, value in options.items() if key in ModelRef.model_fields}
    others = {key: value for key, value in options.items() if key not in of_model}
    made = _class_of(_public(StudentConfig.__name__))(checkpoint={"checkpoint": model, **of_model}, **start)
    made.options |= others
    return made
