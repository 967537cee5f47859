"""Cores and memory that this process may use: the machine's, or the part that its container leaves it."""

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
"""Tells the control groups of a process: ``0::/path`` of version 2, ``3:cpu,cpuacct:/path`` of version 1."""


def physical_cores() -> int:
    """CPU cores that this process may use: those that it may run on, and no more whole ones than its quota comes to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, _quotas())]))


def memory_bytes() -> int:
    """Main memory that this process may use."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_memory_limits()])


def _quotas() -> Iterator[float]:
    """Cores that each limit of CPU time comes to."""
    for folder in _folders(""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) / int(period)
    for folder in _folders("cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        # Without a limit the quota is -1.
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) / int(period)


def _memory_limits() -> Iterator[int]:
    files = [folder / "memory.max" for folder in _folders("")]
    files += [folder / "memory.limit_in_bytes" for folder in _folders("memory")]
    yield from (int(text) for text in map(_read, files) if text.isdecimal())


def _folders(controller: str) -> Iterator[Path]:
    """This process's control group and those above it, of version 2 without a ``controller``.

    A container may not see its own path, which is the root to it.
    """
    for line in _read(_OWN).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            group = Path(path.strip("/"))
            for above in (group, *group.parents):
                yield _CGROUPS / controller / above


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
