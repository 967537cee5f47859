"""Ray on this machine for the time of one job, without the processes that serve others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NEEDLESS = ("start_api_server", "start_monitor", "start_log_monitor")
"""What starts the dashboard's server (which reports usage even where there is no dashboard), the autoscaler, and what
sends logs to the driver."""


def start(**arguments: Any) -> None:
    """``ray.init`` of a new cluster; each process that is left out takes as long to start as a worker."""
    import ray

    with _left_out(_NEEDLESS):
        ray.init(**arguments)


def start_none_on_demand() -> None:
    """From now on a call that needs Ray raises RaySystemError where there is none; Ray itself would start another."""
    from ray._private import auto_init_hook

    auto_init_hook.enable_auto_connect = False


@contextmanager
def _left_out(names: tuple[str, ...]) -> Iterator[None]:
    """Replace methods of Ray's node, which has no options for them; one that a release has not is none to replace."""
    from ray._private.node import Node

    found = {name: getattr(Node, name) for name in names if hasattr(Node, name)}
    for name in found:
        setattr(Node, name, lambda *_arguments, **_options: None)
    try:
        yield
    finally:
        for name, method in found.items():
            setattr(Node, name, method)
