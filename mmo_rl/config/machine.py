"""Capacity of this machine: the number of a sweep's jobs that run side by side."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def jobs_at_once(gigabytes: float = 4.0) -> int:
    """Computes the number of jobs of ``gigabytes`` of memory each that fit side by side: at most one a processor."""
    return max(1, min(_processors(), int(_memory_gb() // gigabytes)))


def _processors() -> int:
    """Counts the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float:
    """Reads the memory of the machine, or of the container where that is less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else [8 * 2**30]
    with suppress(OSError, ValueError):  # no limit is the word "max"
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes) / 2**30
