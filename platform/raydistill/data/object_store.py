"""An object store that speaks S3: opened as the usual variables say, and what is wrong with it in one line.

``AWS_ENDPOINT_URL`` (or ``AWS_ENDPOINT_URL_S3``), ``AWS_REGION`` and the credentials are those that boto3 reads too.
"""

import importlib.util
import os
import re
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs as arrow_fs

from raydistill.data.store_faults import endpoint, fault_of
from raydistill.store_paths import SCHEME
from raydistill.user_error import UserError

_CONNECT_S = 5
_REQUEST_S = 60
_ATTEMPTS = 3
_PROBE = ".raydistill-probe"
_BUCKET = re.compile(r"[\w.-]+", re.ASCII)


def filesystem(uri: str) -> Any:
    """The file system of a URI's bucket.

    Raises UserError for a URI that names none, and OSError where no endpoint is named and nobody knows the bucket.
    """
    bucket = uri.removeprefix(SCHEME).partition("/")[0]
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{uri} names no bucket of an object store; write s3://BUCKET/PATH")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return _opened(bucket, endpoint(), region, os.environ.get("AWS_ACCESS_KEY_ID"))


def place(uri: str) -> str:
    """A URI's bucket and path, as the file system wants it."""
    return uri.removeprefix(SCHEME).rstrip("/")


def problem(uri: str) -> str | None:
    """What keeps a job from writing below a URI, with the remedy, after the words ``storage is ...``; None if nothing.

    Answers within about 20 seconds.
    """
    if importlib.util.find_spec("boto3") is None:
        return "which needs boto3; pip install 'raydistill[s3]'"
    bucket, _, path = place(uri).partition("/")
    if not bucket or "//" in path or ".." in path.split("/"):
        return "which names no folder of a bucket; write s3://BUCKET/PATH"
    try:
        store = filesystem(uri)
        if store.get_file_info(bucket).type == arrow_fs.FileType.NotFound:
            return f"but there is no bucket {bucket!r}; make it, or name another"
        probe = f"{place(uri)}/{_PROBE}"
        with store.open_output_stream(probe) as stream:
            stream.write(bytes(64))
        store.delete_file(probe)
    except OSError as error:
        why = fault_of(error) or str(error).splitlines()[0]
        return f"but {why}; check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION"
    return None


@lru_cache(maxsize=16)
def _opened(bucket: str, address: str | None, region: str | None, key: str | None) -> Any:
    """``key`` tells other credentials apart, which pyarrow reads itself."""
    options: dict[str, Any] = {
        "connect_timeout": _CONNECT_S,
        "request_timeout": _REQUEST_S,
        "retry_strategy": arrow_fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    }
    if address is not None:
        # pyarrow itself reads the variable for URIs alone.
        parts = urlsplit(address if "://" in address else f"https://{address}")
        options |= {"endpoint_override": parts.netloc + parts.path.rstrip("/"), "scheme": parts.scheme}
    elif region is None:
        region = arrow_fs.resolve_s3_region(bucket)
    return arrow_fs.S3FileSystem(region=region, **options)
