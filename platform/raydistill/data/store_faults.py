"""Why an object store failed, told from what pyarrow raised; imports nothing, for commands that have to be quick."""

import os

_CREDENTIALS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "INVALID_CLIENT_TOKEN", "EXPIRED", "status 403")
_SILENCE = ("NETWORK_CONNECTION", "curlCode", "REQUEST_TIMEOUT")


def endpoint() -> str | None:
    """The address of the store, None for that of AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def fault_of(error: BaseException) -> str | None:
    """Why an object store failed, in a few words; None for any other error."""
    text = str(error)
    if "AWS Error" not in text and "curlCode" not in text:
        return None
    if any(sign in text for sign in _SILENCE):
        return f"nobody answers at {endpoint() or 'the endpoint of AWS'}"
    if any(sign in text for sign in _CREDENTIALS):
        return "the credentials are missing or not allowed there"
    return text.rpartition("AWS Error ")[2].splitlines()[0]
