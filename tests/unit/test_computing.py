"""Memory that a process keeps for the tensors of the next step."""

import platform
import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="counts page faults, which only POSIX systems tell")

FAULTS = """
import resource, sys
import torch
from raydistill.computing import compute_with

if sys.argv[1] == "kept":
    compute_with(1)
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, torch.get_num_threads())
"""


def faults_of_a_tensor(memory: str) -> list[int]:
    """Page faults of a tensor of 64 MiB like those that were freed before it, and the threads."""
    done = subprocess.run([sys.executable, "-c", FAULTS, memory], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has the options")
def test_a_tensor_takes_the_memory_of_one_that_was_freed():
    faults, threads = faults_of_a_tensor("kept")
    assert threads == 1
    # 16,384 pages of 4 KiB; huge pages would make 32 faults.
    assert faults < 16 < faults_of_a_tensor("given back")[0]
