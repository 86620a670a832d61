"""What glibc does with memory that a CPU run has freed: kept for the next step where there is plenty."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from extes_train.environment import GIVE_BACK_THRESHOLD, in_slurm_job, malloc_threshold, rank_variables
from extes_train.training.memory import peak_memory_bytes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT = 32 << 20  # bytes; glibc takes no larger threshold
ROOM = 3.0  # times the peak so far: keeping what is freed costs up to twice the peak, and optimizer states may come


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, on a CPU where there is plenty of memory; True where it does from now on.

    A page that was given back is fetched and zeroed again in every step: steps took 1.4 to 1.7 times as long
    (docs/log.md). Left alone: jobs of Slurm, whose memory was asked for by the estimate, a threshold of the user's
    own, and other C libraries.
    """
    if torch.cuda.is_available() or in_slurm_job() or malloc_threshold() not in (None, GIVE_BACK_THRESHOLD):
        return False
    if ROOM * peak_memory_bytes() * rank_variables().local_world_size > available_bytes():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def available_bytes() -> int:
    """Main memory that this machine could still give, at most what this process's control groups leave."""
    rooms = [
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable:")
    ]
    for folder, limit, used in _control_groups():
        try:
            rooms.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
        except (OSError, ValueError):  # "max", or no such controller
            continue
    return min(rooms, default=0)


def _control_groups() -> list[tuple[Path, str, str]]:
    """(folder, file of the limit, file of what is used) of this process's groups and those around them."""
    found: list[tuple[Path, str, str]] = []
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # a kernel without control groups
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root if not controllers else root / "memory"
            names = ("memory.max", "memory.current") if not controllers else (
                "memory.limit_in_bytes", "memory.usage_in_bytes"
            )  # fmt: skip
            inner = top / path.lstrip("/")
            found += [(folder, *names) for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return found
