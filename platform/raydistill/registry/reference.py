"""How a version of a registered model is written: ``NAME``, ``NAME@ALIAS``, ``NAME/VERSION``, or as MLflow's URI."""

import re
from dataclasses import dataclass

from raydistill.user_error import UserError

SCHEME = "models:/"
_PATTERN = re.compile(r"(?P<scheme>models:/)?(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")


@dataclass(frozen=True)
class ModelReference:
    """A version of a registered model: that of an alias, that of a number, or, without either, the newest."""

    name: str
    alias: str | None = None
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Read a model's name on the command line, with or without ``models:/``; raises ValueError."""
        parts = _PATTERN.fullmatch(text)
        if parts is None:
            raise UserError(f"model is {text!r}; write NAME, NAME@ALIAS or NAME/VERSION")
        return cls(parts["name"], parts["alias"], int(parts["version"]) if parts["version"] else None)

    @classmethod
    def parse_checkpoint(cls, text: str) -> "ModelReference":
        """Read a checkpoint of a job, which needs ``models:/`` and an alias or a version; raises ValueError."""
        parts = _PATTERN.fullmatch(text)
        if parts is None or not parts["scheme"] or not (parts["alias"] or parts["version"]):
            raise UserError(f"checkpoint is {text!r}; write models:/NAME@ALIAS or models:/NAME/VERSION")
        return cls.parse(text)

    def __str__(self) -> str:
        """MLflow's URI of the version; MLflow itself has none for the newest, ``models:/NAME``."""
        alias = f"@{self.alias}" if self.alias else ""
        return f"{SCHEME}{self.name}{alias}" + (f"/{self.version}" if self.version is not None else "")


def is_registered(checkpoint: str) -> bool:
    """Whether a checkpoint is meant to come from a model registry."""
    return checkpoint.startswith(SCHEME)
