"""What a container leaves a process, of both versions of control groups."""

import os

import pytest

from raydistill import machine
from raydistill.cluster import memory_per_worker, threads_per_worker
from raydistill.config.sections import ScalingConfig

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A function that makes control groups: the process's own as ``/proc`` tells them, and files by their path."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}.__getitem__)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN", tmp_path / "own")

    def make(own: str, **files: str) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return make


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "600000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        # The path that the host sees; the container has its own group at the root.
        ("4:cpu:/docker/1a\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("", {}, 16),
    ],
)
def test_threads_are_no_more_than_the_quota_of_a_container(groups, own, files, cores):
    groups(own, **files)
    assert machine.physical_cores() == cores
    assert threads_per_worker(ScalingConfig()) == cores
    assert threads_per_worker(ScalingConfig(num_workers=2)) == max(1, cores // 2)


@pytest.mark.parametrize(
    ("own", "files", "gib"),
    [
        ("0::/\n", {"memory.max": f"{8 * GIB}\n"}, 8),
        ("0::/\n", {"memory.max": "max\n"}, 64),
        ("9:memory:/\n", {"memory/memory.limit_in_bytes": f"{4 * GIB}\n"}, 4),
        ("9:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 64),
        ("9:memory:/pod/1\n", {"memory/pod/memory.limit_in_bytes": f"{6 * GIB}\n"}, 6),
    ],
)
def test_memory_is_no_more_than_the_limit_of_a_container(groups, own, files, gib):
    groups(own, **files)
    assert memory_per_worker(ScalingConfig()) == gib * GIB
    assert memory_per_worker(ScalingConfig(num_workers=2)) == gib * GIB / 2
