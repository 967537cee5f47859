"""Hosts on one machine: network namespaces, each with its own address, behind a switch that is one more of them.

Nothing outside these namespaces is touched, so nothing but they has to be removed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_PREFIX = "raydistill-test-"
_INTERFACE = "eth0"
_TIMEOUT_S = 30


class NotPermittedError(RuntimeError):
    """This machine cannot make hosts; the text tells what is missing."""


def _ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise NotPermittedError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Hosts:
    """Hosts of given names, with addresses of a network that is meant for tests (RFC 2544)."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"198.18.0.{number}" for number, name in enumerate(names, 1)}
        self._prefix = f"{_PREFIX}{os.getpid()}-"

    def build(self) -> None:
        """Make them; raises NotPermittedError where the machine has no namespaces, bridges or tool for us."""
        if shutil.which("ip") is None:
            raise NotPermittedError("needs the command ip, of the package iproute2")
        if os.geteuid() != 0:
            raise NotPermittedError("only root may make network namespaces")
        remove_leftovers()
        if present := [space for space in spaces() if space.startswith(self._prefix)]:
            raise RuntimeError(f"hosts of this process are there already: {', '.join(present)}")
        try:
            self._build()
        except NotPermittedError:
            self.remove()
            raise

    def _build(self) -> None:
        switch = self._space("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(self.addresses.items()):
            space, port = self._space(name), f"port{number}"
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "add", _INTERFACE, "type", "veth", "peer", "name", port, "netns", switch)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "address", "add", f"{address}/24", "dev", _INTERFACE)
            _ip("-n", space, "link", "set", _INTERFACE, "up")
            # It leads nowhere; programs find their own address by asking which one would be used for it.
            _ip("-n", space, "route", "add", "default", "dev", _INTERFACE)

    def command(self, name: str, *command: str) -> list[str]:
        """A command line that runs another one on a host."""
        return ["ip", "netns", "exec", self._space(name), *command]

    def cut(self, name: str) -> None:
        """Unplug a host."""
        _ip("-n", self._space(name), "link", "set", _INTERFACE, "down")

    def end(self, name: str) -> None:
        """End all processes of a host at once, as a power cut does."""
        _end_all(self._space(name))

    def remove(self) -> None:
        """End all processes and take the hosts away."""
        _remove([self._space(name) for name in (*self.addresses, "switch")])

    def _space(self, name: str) -> str:
        return f"{self._prefix}{name}"


@contextmanager
def hosts_here(*names: str) -> Iterator[Hosts]:
    """Hosts on this machine, taken away however the test ends; the test is skipped where there can be none."""
    hosts = Hosts(names)
    try:
        hosts.build()
    except NotPermittedError as error:
        pytest.skip(f"no hosts on this machine: {error}")
    try:
        yield hosts
    finally:
        hosts.remove()


def remove_leftovers() -> None:
    """Remove the hosts of tests that were killed before they could."""
    found = [space for space in spaces() if space.startswith(_PREFIX)]
    _remove([space for space in found if not _runs(int(space.removeprefix(_PREFIX).split("-")[0]))])


def spaces() -> list[str]:
    """Names of all namespaces of this machine."""
    text = _ip("-json", "netns", "list").strip()
    return [found["name"] for found in json.loads(text)] if text else []


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _remove(unwanted: Sequence[str]) -> None:
    present = set(spaces()) & set(unwanted)
    for space in present:
        _end_all(space)
    for space in present:
        _ip("netns", "delete", space)


def _end_all(space: str) -> None:
    """Kill until none is left: one that dies may just have started another."""
    end = time.monotonic() + _TIMEOUT_S
    while pids := _ip("netns", "pids", space).split():
        if time.monotonic() > end:
            raise RuntimeError(f"processes {', '.join(pids)} of {space} do not end")
        for pid in pids:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


class Ray:
    """A Ray cluster on hosts: its processes get ``environment``, its files lie in ``folder``."""

    PORT, DASHBOARD = 6379, 8265

    def __init__(self, hosts: Hosts, folder: Path, environment: dict[str, str]) -> None:
        self.hosts, self.folder, self.environment = hosts, folder, environment
        self.head = ""

    def start_head(self, name: str, *, num_cpus: int) -> None:
        """Start a cluster with its job API."""
        self.head = self.hosts.addresses[name]
        dashboard = ["--include-dashboard=true", f"--dashboard-host={self.head}", f"--dashboard-port={self.DASHBOARD}"]
        self._start(name, num_cpus, "--head", f"--port={self.PORT}", f"--temp-dir={self.folder}", *dashboard)

    def start_node(self, name: str, *, num_cpus: int) -> None:
        """Let a host join."""
        self._start(name, num_cpus, f"--address={self.head}:{self.PORT}")

    def _start(self, name: str, num_cpus: int, *options: str) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={self.hosts.addresses[name]}"]
        sizes = [f"--num-cpus={num_cpus}", "--object-store-memory=100000000", "--disable-usage-stats"]
        log = self.folder.with_name(f"start-{name}.log")
        with log.open("ab") as output:
            # The log takes what started processes say later, which would keep a pipe open.
            done = subprocess.run(
                self.hosts.command(name, *ray, *sizes, *options),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=90,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"ray start on {name} failed: {log.read_text()[-2000:]}")
