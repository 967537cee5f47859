"""Which network interface workers on several machines talk over: the one that carries their node's address in Ray."""

import ipaddress
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

logger = logging.getLogger(__name__)

_TorchBackend: Any = TorchConfig().backend_cls

_Table = Mapping[str, Iterable[Any]]
"""Addresses of each interface, as ``psutil.net_if_addrs`` returns them."""


def interface_of(address: str, table: _Table) -> str | None:
    """Name of the interface that has an IP address, None where none has it."""
    wanted = ipaddress.ip_address(address)
    return next((name for name, entries in table.items() if any(_is(entry.address, wanted) for entry in entries)), None)


def _is(text: str, wanted: Any) -> bool:
    """Whether an entry of the table, which may be a hardware address or have a zone, is an address."""
    try:
        return bool(ipaddress.ip_address(text.partition("%")[0]) == wanted)
    except ValueError:
        return False


def use_interface(address: str, table: _Table) -> None:
    """Make gloo and NCCL of this process use the interface of an address; what a user has set stays.

    By themselves they look up the machine's own name, which often means loopback, or take the first interface.
    """
    name = interface_of(address, table)
    if name is None:
        logger.warning("no network interface has Ray's address %s; GLOO_SOCKET_IFNAME can name one", address)
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    # NCCL takes a bare name for the beginning of one: eth1 would mean eth10 too.
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def _use_interface_of_node() -> None:
    use_interface(ray.util.get_node_ip_address(), psutil.net_if_addrs())


class _Backend(_TorchBackend):
    """Ray Train's, which chooses interfaces before workers join in a group."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Start the group; on one machine nothing is chosen."""
        if len(set(worker_group.execute(ray.util.get_node_ip_address))) > 1:
            worker_group.execute(_use_interface_of_node)
        super().on_start(worker_group, backend_config)


class GroupConfig(TorchConfig):
    """``TorchConfig`` for workers on any number of machines."""

    @property
    def backend_cls(self) -> Any:
        """What starts the group of processes."""
        return _Backend
