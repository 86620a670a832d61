"""Jobs of a Slurm cluster, from a configuration: pure functions."""

from __future__ import annotations

import sys
from pathlib import Path

from launch.config import LauncherConfig, SlurmConfig
from launch.slurm.script import Job


def processes(launcher: LauncherConfig) -> int:
    """Processes over all nodes."""
    assert isinstance(launcher, SlurmConfig)
    return launcher.nodes * processes_per_node(launcher)


def processes_per_node(launcher: SlurmConfig) -> int:
    """The number asked for, else one per GPU, else one."""
    return launcher.processes_per_node or max(1, launcher.gpus_per_node)


def interpreter(launcher: SlurmConfig) -> str:
    """The Python of the nodes."""
    return launcher.python or ("python3" if launcher.container != "none" else sys.executable)


def training_job(launcher: SlurmConfig, run_dir: Path, module: str = "extes_train.train") -> Job:
    """One training run on all the nodes; other modules (evaluation) run as one process."""
    training = module == "extes_train.train"
    return Job(
        title=f"{'Trains' if training else 'Evaluates'} {run_dir.name} on {launcher.nodes if training else 1} node(s).",
        name=module.rpartition(".")[2],
        directory=run_dir,
        module=module,
        nodes=launcher.nodes if training else 1,
        processes_per_node=processes_per_node(launcher) if training else 1,
        gpus_per_node=launcher.gpus_per_node if training else min(1, launcher.gpus_per_node),
        time_limit=launcher.time_limit,
        signal=True,
    )
