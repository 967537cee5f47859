"""How a version of a registered model is written: ``NAME``, ``NAME@ALIAS``, ``NAME/VERSION``, or as MLflow's URI.

An export of the version is named after a colon: ``NAME@ALIAS:onnx-int8``.
"""

import posixpath
import re
from dataclasses import dataclass

from raydistill.user_error import UserError

SCHEME = "models:/"
_PATTERN = re.compile(
    r"(?P<scheme>models:/)?(?P<name>[^/@:]+)(?:@(?P<alias>[^/@:]+)|/(?P<version>\d+))?(?::(?P<export>[\w-]+))?"
)
_ALIAS = re.compile(r"(?!latest$|v\d+$)[\w-]+", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r"[/\w.\- :]+")
_NOT_IN_NAMES = "/:@'"
"""The first three part a reference, the last ends a string in the registry's filters."""
_LONGEST_NAME, _LONGEST_TAG = 250, 100_000


@dataclass(frozen=True)
class ModelReference:
    """A version of a registered model: that of an alias, that of a number, or, without either, the newest."""

    name: str
    alias: str | None = None
    version: int | None = None
    export: str | None = None
    """Format of the export of it that is meant; None for the student itself."""

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Read a model's name on the command line, with or without ``models:/``; raises ValueError."""
        parts = _PATTERN.fullmatch(text)
        if parts is None:
            raise UserError(f"model is {text!r}; write NAME, NAME@ALIAS or NAME/VERSION, with :FORMAT for an export")
        number = int(parts["version"]) if parts["version"] else None
        return cls(parts["name"], parts["alias"], number, parts["export"])

    @classmethod
    def parse_checkpoint(cls, text: str) -> "ModelReference":
        """Read a checkpoint of a job, which needs ``models:/`` and an alias or a version; raises ValueError."""
        parts = _PATTERN.fullmatch(text)
        if parts is None or not parts["scheme"] or not (parts["alias"] or parts["version"]):
            raise UserError(
                f"checkpoint is {text!r}; write models:/NAME@ALIAS or models:/NAME/VERSION, with :FORMAT for an export"
            )
        return cls.parse(text)

    def __str__(self) -> str:
        """MLflow's URI of the version; MLflow itself has none for the newest, ``models:/NAME``, nor for an export."""
        version = f"@{self.alias}" if self.alias else "" if self.version is None else f"/{self.version}"
        return f"{SCHEME}{self.name}{version}" + (f":{self.export}" if self.export else "")


def check_name(name: str) -> None:
    """Raise ValueError for a name that the registry does not take, or that no reference could write."""
    found = next((sign for sign in name if sign in _NOT_IN_NAMES or not sign.isprintable()), None)
    if found is not None:
        raise UserError(f"name is {name!r}, which has {found!r}; a registered model's name has none of {_NOT_IN_NAMES}")
    if name.strip() != name or name in ("", ".", ".."):
        raise UserError(f"name is {name!r}; give a registered model's name without spaces at its ends")
    if len(name) > _LONGEST_NAME:
        raise UserError(f"name has {len(name)} characters; a registered model's name has at most {_LONGEST_NAME}")


def check_alias(alias: str) -> None:
    """Raise ValueError for an alias that the registry reserves or does not take."""
    if len(alias) > _LONGEST_NAME:
        raise UserError(f"alias has {len(alias)} characters; it has at most {_LONGEST_NAME}")
    if not _ALIAS.fullmatch(alias):
        raise UserError(f"alias is {alias!r}; use letters, digits, _ and -, but not latest, and not v with a number")


def check_tag(name: str, text: str) -> None:
    """Raise ValueError for a version's tag that the registry does not take."""
    if not _TAG.fullmatch(name) or posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
        raise UserError(f"tags has {name!r}; a tag's name has letters, digits, spaces, _, -, ., : and / between others")
    if len(name) > _LONGEST_NAME:
        raise UserError(f"tags has a name of {len(name)} characters; it has at most {_LONGEST_NAME}")
    if len(text) > _LONGEST_TAG:
        raise UserError(f"tags.{name} has {len(text):,} characters; it has at most {_LONGEST_TAG:,}")


def is_registered(checkpoint: str) -> bool:
    """Whether a checkpoint is meant to come from a model registry."""
    return checkpoint.startswith(SCHEME)
