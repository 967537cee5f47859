"""Variables that every process of raydistill starts with: nothing phones home, no library draws bars into logs."""

import os

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow understands "true" alone, the hub's client any spelling.
    "DO_NOT_TRACK": "true",
    "TOKENIZERS_PARALLELISM": "false",
}


def quiet_variables() -> dict[str, str]:
    """What a new process of a cluster gets."""
    return dict(_QUIET)


def keep_quiet() -> None:
    """Set the same for this process; libraries read most of them on import."""
    os.environ.update(_QUIET)


_EXTRAS = {**dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"), "openvino": "openvino", "nncf": "openvino"}
"""The extra that brings a package, where it is not ``runtime``."""


def missing_package(error: ModuleNotFoundError, what: str = "this command") -> str:
    """One line for a package of the runtime half that is not installed; raises the error again if it is our own."""
    name = (error.name or "").partition(".")[0]
    if name in ("", "raydistill"):
        raise error
    extra = _EXTRAS.get(name, "runtime")
    return f"{what} needs the package {name}, which is not installed; pip install 'raydistill[{extra}]'"
