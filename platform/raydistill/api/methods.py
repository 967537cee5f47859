"""The public class of every method, made of the method's module: its options, requirements and documentation.

A method is one file in ``raydistill/methods``. The class ``KD`` of ``kd`` takes the options of ``kd.Config``.
"""

import dataclasses
import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

from torch import nn

from raydistill import discovery
from raydistill.api.distillation import Distillation, build
from raydistill.api.documentation import documentation
from raydistill.methods._base import Distiller, Requirements
from raydistill.user_error import UserError

_PACKAGE = "raydistill.methods"


class DistillationMethod:
    """A method and its options; ``build`` puts it around a student and its teachers.

    The subclasses, such as ``KD``, take the options of their method as keywords. Raises ValueError for an unknown
    option or a value that it does not take. Shapes, units and errors of a loss: see ``Distillation``. Source: see the
    subclass.

    >>> rd.KD(temperature=2).config.temperature
    2
    >>> rd.KD(temprature=2)
    Traceback (most recent call last):
    raydistill.user_error.UserError: option is 'temprature'; did you mean 'temperature'? ...
    """

    name: ClassVar[str]
    """The method's name in a job."""

    def __init__(self, **options: Any) -> None:
        config_type = discovery.load(_PACKAGE, self.name).Config
        fields = [field.name for field in dataclasses.fields(config_type)]
        for option in options:
            if option not in fields:
                raise UserError(discovery.unknown_choice("option", option, fields))
        self.config: Any = config_type(**{option: _immutable(value) for option, value in options.items()})
        """The options, defaults included."""

    @property
    def method(self) -> type[Distiller]:
        """The class of the loss."""
        found: type[Distiller] = discovery.load(_PACKAGE, self.name).Method
        return found

    @property
    def requirements(self) -> Requirements:
        """What it needs with these options."""
        return self.method.requirements(self.config)

    def build(self, student: nn.Module, teachers: Sequence[nn.Module] = (), **options: Any) -> Distillation:
        """A module that makes a loss of a padded batch; the student is set to training, teachers are frozen.

        Models are those of transformers, with a head and ``attn_implementation="sdpa"``. Without teachers their stored
        outputs are read from the batches, where the method takes them so. ``options`` may have ``teacher_labels``, see
        ``Execution.partial_label_space``. Raises ValueError, with one line, for models that the method cannot take.
        """
        return build(self.name, self.method, self.config, student, teachers, options)

    def __repr__(self) -> str:
        default = [(field.name, getattr(self.config, field.name)) for field in dataclasses.fields(self.config)]
        return f"{type(self).__name__}({', '.join(f'{option}={value!r}' for option, value in default)})"


def _immutable(value: Any) -> Any:
    """Lists as tuples, as a job's are, so that options can be compared."""
    return tuple(_immutable(item) for item in value) if isinstance(value, list | tuple) else value


@cache
def method_class(name: str) -> type[DistillationMethod]:
    """The public class of a method in ``raydistill/methods``; raises ValueError where there is no such method."""
    module = discovery.load(_PACKAGE, name)
    options = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(module.Config).parameters.values()
    ]
    made: Any = type(
        discovery.class_name(name),
        (DistillationMethod,),
        {
            "__doc__": documentation(module),
            "__module__": "raydistill",
            "__signature__": inspect.Signature(options),
            "name": name,
        },
    )
    found: type[DistillationMethod] = made
    return found
