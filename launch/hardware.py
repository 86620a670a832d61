"""GPUs by name: memory and speed, for estimates before anything runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """`memory_gib` of the smallest board of that name, `teraflops` dense bf16 (fp16 before Ampere) as published."""

    memory_gib: float
    teraflops: float


GPUS = {
    "p100": Gpu(16, 19), "v100": Gpu(16, 112), "t4": Gpu(16, 65), "a10": Gpu(24, 125), "a30": Gpu(24, 165),
    "a40": Gpu(48, 150), "a100": Gpu(40, 312), "l4": Gpu(24, 121), "l40": Gpu(48, 181), "l40s": Gpu(48, 362),
    "rtx3090": Gpu(24, 71), "rtx4090": Gpu(24, 165), "a6000": Gpu(48, 155), "h100": Gpu(80, 989), "h200": Gpu(141, 989),
    "gh200": Gpu(96, 989), "b200": Gpu(180, 2250), "mi250x": Gpu(64, 191), "mi300x": Gpu(192, 1307),
}  # fmt: skip
USED_SHARE = 0.35  # of the published speed, in training
CPU_FLOPS_PER_THREAD = {"fp32": 5e10, "bf16": 8e10}  # measured on one core (docs/memory.md)


def gpu_of_type(name: str) -> Gpu | None:
    """The GPU of a Slurm type such as a100, nvidia_a100-sxm4-80gb or h100_80; None for an unknown one."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    for word in words:
        if word in GPUS:
            sizes = [int(match.group(1)) for part in words if (match := re.fullmatch(r"(\d{2,3})(?:gb?)?", part))]
            return Gpu(max([GPUS[word].memory_gib, *sizes]), GPUS[word].teraflops)
    return None


def local_gpu() -> tuple[str, float] | None:
    """(name, memory in GiB) of the smallest GPU that nvidia-smi shows; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    words = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
        found = [(name.strip(), float(mib) / 1024) for name, mib in (line.split(",") for line in lines if line.strip())]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return min(found, key=lambda pair: pair[1], default=None)
