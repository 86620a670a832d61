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


def training_job(launcher: SlurmConfig, run_dir: Path) -> Job:
    """One training run on all the nodes."""
    return Job(
        title=f"Trains {run_dir.name} on {launcher.nodes} node(s), {processes_per_node(launcher)} process(es) on each.",
        name="train",
        directory=run_dir,
        module="extes_train.train",
        nodes=launcher.nodes,
        processes_per_node=processes_per_node(launcher),
        gpus_per_node=launcher.gpus_per_node,
        time_limit=launcher.time_limit,
        signal=True,
        requeue=launcher.requeue,
    )


def evaluation_job(launcher: SlurmConfig, run_dir: Path) -> Job:
    """The evaluation of a run: one process, one GPU where there are any."""
    return Job(
        title=f"Evaluates {run_dir.name}.",
        name="evaluate",
        directory=run_dir,
        module="extes_train.evaluate",
        gpus_per_node=min(1, launcher.gpus_per_node),
        time_limit=launcher.time_limit,
        signal=True,
        requeue=launcher.requeue,
    )


def report_job(launcher: SlurmConfig, out: Path) -> Job:
    """The report of a comparison."""
    return Job(
        title=f"Writes the report of {out.name}.",
        name="report",
        directory=out,
        module="launch.slurm.report",
        arguments=[str(out)],
        time_limit="00:30:00",
        workers=False,
    )
