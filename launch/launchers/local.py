"""One process on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from launch.config import LauncherConfig


def processes(launcher: LauncherConfig) -> int:
    """Always one."""
    return 1


def worker_command(module: str, overrides: Sequence[str], launcher: LauncherConfig) -> list[str]:
    """`python -m MODULE OVERRIDES`."""
    return [sys.executable, "-m", module, *overrides]
