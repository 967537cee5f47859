"""How a process computes on its CPUs: with how many threads, and in memory that it keeps."""

import ctypes
import platform

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of options of ``mallopt``, of ``malloc.h``."""
_MOST_KEPT = 2**31 - 1
"""Bytes at the end of the heap that are kept."""
_LARGEST = 2**30
"""Bytes of a block from which it is mapped by itself, and given back when it is freed."""


def compute_with(num_threads: int) -> None:
    """Give PyTorch so many threads, and keep the memory that it frees for the tensors that come next.

    Each step frees its tensors and asks for equal ones in the next. The C library maps every larger block anew, whose
    pages the system then fills with zeros one by one: up to a fifth of a step.
    """
    torch.set_num_threads(num_threads)
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
