"""Hosts in network namespaces, which the tests of two hosts stand on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.hosts import Hosts, hosts_here, spaces

LISTEN = "import socket; s = socket.create_server(('{}', 7000)); print(flush=True); [s.accept() for _ in range(9)]"
CONNECT = "import socket; socket.create_connection(('{}', 7000), timeout=2)"


def start(hosts: Hosts, name: str, program: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(hosts.command(name, sys.executable, "-c", program), stdout=subprocess.PIPE, text=True)


def first_line(process: "subprocess.Popen[str]") -> str:
    """Wait until a process has begun, which it says by a line."""
    assert process.stdout is not None
    return process.stdout.readline()


def of_process(pid: int) -> list[str]:
    """Namespaces that a process has made and not removed."""
    return [space for space in spaces() if f"-{pid}-" in space]


def connects(hosts: Hosts, name: str, to: str) -> bool:
    command = hosts.command(name, sys.executable, "-c", CONNECT.format(hosts.addresses[to]))
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def test_hosts_reach_each_other_until_one_is_cut_off_or_ended() -> None:
    with hosts_here("one", "two", "three") as hosts:
        server = start(hosts, "one", LISTEN.format(hosts.addresses["one"]))
        first_line(server)
        assert connects(hosts, "two", "one")
        assert connects(hosts, "three", "one")
        hosts.cut("two")
        assert not connects(hosts, "two", "one")
        assert connects(hosts, "three", "one")
        hosts.end("one")
        assert server.wait(timeout=10) == -9
        assert not connects(hosts, "three", "one")


def fail_beside(sleepers: "list[subprocess.Popen[str]]") -> None:
    """Fail in the middle of a test whose host runs something."""
    with hosts_here("one", "two") as hosts:
        sleepers.append(start(hosts, "two", "import time; print(flush=True); time.sleep(600)"))
        first_line(sleepers[0])
        raise ZeroDivisionError


def test_a_test_that_fails_leaves_neither_processes_nor_hosts() -> None:
    sleepers: list[subprocess.Popen[str]] = []
    with pytest.raises(ZeroDivisionError):
        fail_beside(sleepers)
    assert sleepers[0].wait(timeout=10) == -9
    assert not of_process(os.getpid())


def test_hosts_of_a_test_that_was_killed_are_removed_by_the_next_one() -> None:
    program = (
        "import time; from cluster.hosts import Hosts; Hosts(['left']).build(); print(flush=True); time.sleep(600)"
    )
    with hosts_here("one"):
        folder = Path(__file__).parents[1]
        killed = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=folder)
        first_line(killed)
        killed.kill()
        killed.wait(timeout=10)
    assert len(of_process(killed.pid)) == 2
    with hosts_here("one"):
        assert not of_process(killed.pid)
        assert len(of_process(os.getpid())) == 2
