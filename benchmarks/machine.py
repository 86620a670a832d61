"""What every benchmark says of the machine it ran on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Processor, cores, versions and command, for the benchmark's JSON line."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in ("torch", "deepspeed", "transformers", "peft", "aiohttp")},
        "command": "python " + " ".join(sys.argv),
    }


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")


def version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
