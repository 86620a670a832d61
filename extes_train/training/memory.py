"""Peak memory of this process (DESIGN: peak_memory_bytes)."""

from __future__ import annotations

import torch


def memory_kind() -> str:
    """What `peak_memory_bytes` measures here."""
    return "cuda max_memory_allocated" if torch.cuda.is_available() else "VmHWM"


def peak_memory_bytes() -> int:
    """Peak so far: CUDA's allocator, or the resident set of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
