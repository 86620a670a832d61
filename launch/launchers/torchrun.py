"""Several processes on this machine, by torchrun's agent.

torchrun itself would also restart a worker whose configuration is wrong; so it runs with no restarts of its own and
`launch.processes` starts it again only after a worker was killed. `launch.agent` is torchrun without its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from launch.config import LauncherConfig, TorchrunConfig
from launch.environment import available_cores, visible_gpus


def processes(launcher: LauncherConfig) -> int:
    """The number asked for, else one per GPU; without a GPU two, so that a workstation's run is a distributed one."""
    assert isinstance(launcher, TorchrunConfig)
    return launcher.processes or visible_gpus() or min(2, available_cores())


def worker_command(module: str, overrides: Sequence[str], launcher: LauncherConfig) -> list[str]:
    """torchrun's command for one node."""
    assert isinstance(launcher, TorchrunConfig)
    own = ["--standalone", f"--nproc-per-node={processes(launcher)}", "--max-restarts=0", *launcher.arguments]
    return [sys.executable, "-m", "launch.agent", *own, "-m", module, *overrides]
