"""What a library raises over a user's file becomes one line that names the file."""

import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from raydistill.data.store_faults import fault_of
from raydistill.user_error import UserError, said

_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException, UnicodeError)
_DEEP = "is JSON that is nested too deeply; write one flat object a row"


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise UserError for damage that is met in the block, and for what a format's library does not read."""
    try:
        yield
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{name} {_DEEP}") from None
    except (OSError, json.JSONDecodeError, *_DAMAGE) as error:
        # bz2 and Arrow raise OSErrors of their own; those of the operating system have a number.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None or fault_of(error) is not None:
            raise
        raise UserError(f"{name} is damaged or cut off ({said(error)}); fetch or write it again") from None


def json_value(text: str | bytes) -> Any:
    """What a JSON text says; raises UserError for what is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(_DEEP) from None
    except ValueError as error:
        raise UserError(f"is not JSON: {error}") from None
