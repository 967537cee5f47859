"""Which interface workers talk over, from tables of interfaces that a test makes up."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from raydistill.training import network


def entries(*addresses: str) -> list[Any]:
    return [SimpleNamespace(address=address) for address in addresses]


TABLE = {
    "lo": entries("127.0.0.1", "::1", "00:00:00:00:00:00"),
    "eth0": entries("10.0.0.7", "fe80::1%eth0", "0e:35:9c:00:00:01"),
    "eth10": entries("192.168.3.4", "192.168.3.5", "2001:db8::4"),
}


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        # Set first, so that what the test leaves is taken away after it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.7", "eth0"),
        ("192.168.3.5", "eth10"),
        ("127.0.0.1", "lo"),
        ("2001:0db8:0::4", "eth10"),
        ("fe80::1", "eth0"),
        ("10.0.0.70", None),
        ("10.0.0.1", None),
    ],
)
def test_the_interface_is_the_one_that_has_the_address(address: str, name: str | None) -> None:
    assert network.interface_of(address, TABLE) == name


def test_gloo_gets_the_name_and_nccl_the_whole_name() -> None:
    network.use_interface("192.168.3.4", TABLE)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth10"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=eth10"


def test_what_a_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    network.use_interface("192.168.3.4", TABLE)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth0"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=eth10"


def test_an_address_that_no_interface_has_chooses_none() -> None:
    network.use_interface("203.0.113.9", TABLE)
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    assert "NCCL_SOCKET_IFNAME" not in os.environ


class Group:
    """Workers with these addresses that note what they are told to run."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.ran: list[Any] = []

    def execute(self, function: Any) -> list[str]:
        self.ran.append(function)
        return list(self.addresses)


@pytest.mark.parametrize(
    ("addresses", "chooses"), [(("10.0.0.7", "10.0.0.7"), False), (("10.0.0.7", "10.0.0.8"), True)]
)
def test_interfaces_are_chosen_before_workers_on_several_machines_join_and_not_on_one(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...], chooses: bool
) -> None:
    group = Group(*addresses)
    monkeypatch.setattr(network._TorchBackend, "on_start", lambda self, workers, config: workers.ran.append("join"))
    config = network.GroupConfig(backend="gloo")
    config.backend_cls().on_start(group, config)
    assert group.ran[-1] == "join"
    assert (network._use_interface_of_node in group.ran) is chooses
