"""The deepspeed launcher: one machine, or several over ssh with a hostfile."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from extes_train.errors import LaunchError
from launch.config import DeepspeedConfig, LauncherConfig
from launch.environment import visible_gpus


def read_hostfile(path: str) -> dict[str, int]:
    """Host -> slots, in order. Raises LaunchError with file:line."""
    if not Path(path).is_file():
        raise LaunchError(f"launcher.hostfile={path}: no such file")
    hosts: dict[str, int] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, _, rest = line.partition(" ")
        slots = rest.strip().removeprefix("slots=")
        if not slots.isdigit() or int(slots) < 1 or name in hosts:
            raise LaunchError(f'{path}:{number}: {line!r}: write "HOST slots=N" once per host, N at least 1')
        hosts[name] = int(slots)
    if not hosts:
        raise LaunchError(f"{path}: names no host")
    return hosts


def processes(launcher: LauncherConfig) -> int:
    """Processes over all hosts."""
    assert isinstance(launcher, DeepspeedConfig)
    if launcher.hostfile:
        return sum(min(slots, launcher.processes or slots) for slots in read_hostfile(launcher.hostfile).values())
    return launcher.processes or max(1, visible_gpus())


def worker_command(module: str, overrides: Sequence[str], launcher: LauncherConfig) -> list[str]:
    """deepspeed's command line."""
    assert isinstance(launcher, DeepspeedConfig)
    command = [sys.executable, "-m", "deepspeed.launcher.runner"]
    if launcher.hostfile:
        command += [f"--hostfile={launcher.hostfile}"]
        command += [f"--num_gpus={launcher.processes}"] if launcher.processes else []
    else:
        command += ["--num_gpus", str(processes(launcher)), "--num_nodes", "1"]
    # ranks come from the environment, as torchrun's do; the runner's own notes are no news
    return [*command, "--no_local_rank", "--quiet", *launcher.arguments, "--module", module, *overrides]
