"""Memory that a process has freed: kept for what it allocates next, and given back where it waits for other work.

A training step allocates all its activations anew. The C library hands blocks of that size back to the system when they are freed and gets
them again in the next step, when the kernel clears each page: up to a quarter of a step on two cores (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# malloc.h of glibc; its manual, "Malloc Tunable Parameters"
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
NEVER, LARGEST_BLOCK = -1, 1 << 30
THREAD_HEAP = (
    64 << 20
)  # what a thread other than the first allocates from is given back whole, unless less than the pad would be left


def keep_freed() -> None:
    """Let this process keep what it frees, up to blocks of 1 GiB, until `give_back`. Changes nothing where the C library is not glibc."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
        libc.mallopt(M_TOP_PAD, 2 * THREAD_HEAP)


def give_back() -> None:
    """Give what is free to the system and to the GPU's other processes: this one lives on, and others want it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    """Its functions, or None."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
