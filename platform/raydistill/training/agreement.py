"""Failures of one worker that end a training on all of them."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from safetensors import SafetensorError

from raydistill.user_error import UserError

T = TypeVar("T")


class StorageError(UserError):
    """A folder cannot be written or read; the same single line on every rank.

    It ends a training: a restarted group of workers would meet the same.
    """


def agree(action: Callable[[], T], *, subject: str, remedy: str) -> T:
    """Run ``action`` on this rank; raise StorageError on every rank when it failed on any of them.

    All ranks call it. ``action`` must not raise between two collectives, or the other ranks wait in the second.
    """
    result, failure = None, ""
    try:
        result = action()
    except Exception as error:
        # The library that writes tokenizers raises bare exceptions with the system's text in them.
        if not isinstance(error, OSError | SafetensorError | ValueError) and "os error" not in str(error):
            raise
        failure = f"{subject}: {reason(error)}; {remedy}"
    failures = [""] * dist.get_world_size()
    dist.all_gather_object(failures, failure)
    found = next((text for text in failures if text), None)
    if found is not None:
        raise StorageError(found)
    return result  # type: ignore[return-value]


def reason(error: BaseException) -> str:
    """Why something failed, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())
