"""Passwords and keys: references that stand for them in a job, stars elsewhere, and a file that brings them to a job.

Run as a module in the folder of a submitted job, it runs a command with the variables of that file.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from raydistill.user_error import UserError

VARIABLES = "variables.json"
"""File with the environment variables of a submitted job, beside its job file; its owner alone may read it."""
HIDDEN = "***"
_REFERENCE = re.compile(r"\$\{(env|file):([^{}]+)\}")
# A scheme is short; without a bound a text that is one long word takes time by the square of its length.
_URI = re.compile(r"[a-z][\w+.-]{0,31}://[^\s'\"<>]+", re.IGNORECASE)
_SECRETS = frozenset({"password", "passwd", "passphrase", "pwd", "secret", "token", "key"})


def has_reference(text: str) -> bool:
    """Whether ``${env:NAME}`` or ``${file:PATH}`` stands in a text."""
    return _REFERENCE.search(text) is not None


def resolved(text: str, *, key: str, environment: Mapping[str, str] = os.environ) -> str:
    """A URI with what its references stand for: as it is where one is the whole text, quoted as a part of it.

    Raises UserError, with ``key`` and the remedy, for a variable that is not set and a file that cannot be read.
    """
    whole = _REFERENCE.fullmatch(text)
    if whole is not None:
        return _value(whole, key, environment)
    return _REFERENCE.sub(lambda one: quote(_value(one, key, environment), safe=""), text)


def _value(reference: re.Match[str], key: str, environment: Mapping[str, str]) -> str:
    kind, name = reference.groups()
    if kind == "env":
        if name not in environment:
            raise UserError(f"{key} refers to the variable {name}, which is not set; set it")
        return environment[name]
    try:
        return Path(name).expanduser().read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"{key} refers to the file {name}, which cannot be read ({why}); make it readable") from None


def free_of_secrets(uri: str) -> str:
    """A URI as it is; raises ValueError where it holds a password or a key itself, and not a reference to it."""
    parts = urlsplit(_REFERENCE.sub("", uri))
    password = parts.netloc.rpartition("@")[0].partition(":")[2]
    if password or any(value and is_secret(key) for key, value in parse_qsl(parts.query)):
        raise UserError(
            "it holds a password, which would be written to files; write ${env:NAME} in its place and set that "
            "variable, or ${file:PATH}"
        )
    return uri


def without_secrets(uri: str) -> str:
    """The URI with passwords and keys replaced by stars, for messages and files."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    netloc = f"{name}:{HIDDEN}@{host}" if at and colon else parts.netloc
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if not any(is_secret(key) for key, _ in pairs):
        query = parts.query
    else:
        query = urlencode([(key, HIDDEN if is_secret(key) else value) for key, value in pairs], safe="*")
    if (netloc, query) == (parts.netloc, parts.query):
        return uri
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def starred(text: str) -> str:
    """Any text with stars in place of the passwords and keys of its URIs."""
    return _URI.sub(_star, text)


def _star(found: re.Match[str]) -> str:
    try:
        return without_secrets(found.group())
    except ValueError:
        return HIDDEN


def is_secret(key: str) -> bool:
    """Whether what a key of this name holds is not for files and messages."""
    words = re.split(r"[^a-z]+", key.lower())
    return any(word in _SECRETS for word in words) or words[-1].endswith(("password", "token", "secret"))


def load_variables() -> None:
    """Set the variables of the job that this process belongs to; Ray calls it in each worker of a submitted one."""
    path = Path(VARIABLES)
    if path.is_file():
        os.environ.update(json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    load_variables()
    os.execvp(sys.argv[1], sys.argv[1:])
