"""Checks that the weights fit into free RAM before loading them (the OOM killer gives no message)."""

from __future__ import annotations

import json
import math
import struct
from contextlib import suppress
from pathlib import Path

from mmo_rl.errors import PolicyError

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def require_memory(location: str, *, bytes_a_parameter: int) -> None:
    """Raises `PolicyError` where the weights in the folder ``location`` are larger than the free memory. Weights of
    unknown size (not safetensors) and systems that don't tell (not Linux) are not refused."""
    needed = parameters(Path(location)) * bytes_a_parameter
    free = free_bytes()
    if free is not None and needed > free:
        raise PolicyError(
            f"the weights of {location} take {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free",
            hint="choose a smaller model (model=smollm2_135m, model=tiny), or a machine with more memory",
        )


def parameters(folder: Path) -> int:
    """Counts the weights in the safetensors files of ``folder``, by their headers; 0 where there are none."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with suppress(OSError, ValueError, struct.error), file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, 2**27)))
            count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count


def free_bytes(*, meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Returns the free memory of the machine, swap included, or of the container where that is less; None where the
    system doesn't tell."""
    try:
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = sum(int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None
    with suppress(OSError, ValueError):  # no limit is the word "max"
        limit, used = (int((cgroup / f"memory.{name}").read_text()) for name in ("max", "current"))
        rows_in_group = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        # What was read from files counts as used, and makes room when it is needed.
        free = min(free, limit - used + int(rows_in_group.get("file", 0)))
    return max(free, 0)
