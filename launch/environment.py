"""Every environment variable that `launch` reads, and the ones it sets for workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from extes_train.environment import GIVE_BACK_THRESHOLD


def worker_environment(extra: Mapping[str, str], processes: int, exit_records: Path | None) -> dict[str, str]:
    """The environment of workers: threads shared out among `processes`, no spinning, records of how each ended."""
    environment = dict(os.environ)
    threads = max(1, available_cores() // max(1, processes))
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # spinning OpenMP threads multiply step times where processes share cores (docs/log.md)
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not visible_gpus():
        environment.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for one and warn
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", GIVE_BACK_THRESHOLD)
    if exit_records is not None:
        environment["EXTES_EXIT_RECORDS"] = str(exit_records)
    # workers must import this code wherever they start
    checkout = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [checkout, environment.get("PYTHONPATH")]))
    environment.update(extra)
    return environment


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> int:
    """GPUs this machine shows, without importing torch: CUDA_VISIBLE_DEVICES, else /dev/nvidia*."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])


def is_colour_terminal() -> bool:
    """True when stdout is a terminal and NO_COLOR is not set."""
    import sys

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def slurm_conf_present() -> bool:
    """True where Slurm's commands can be expected to find a controller."""
    return bool(os.environ.get("SLURM_CONF")) or Path("/etc/slurm/slurm.conf").exists()


@dataclass(frozen=True)
class SlurmJob:
    """What Slurm says about the job this process runs in."""

    job_id: str
    restart_count: int
    node: int
    nodes: int


def slurm_job() -> SlurmJob:
    """The present job; "" outside of one."""
    read = os.environ.get
    return SlurmJob(
        read("SLURM_JOB_ID", ""), int(read("SLURM_RESTART_COUNT", "0")), int(read("SLURM_NODEID", "0")),
        int(read("SLURM_JOB_NUM_NODES", "1")),
    )  # fmt: skip


def slurm_rank_environment(job: SlurmJob, local_rank: int, processes: int) -> dict[str, str]:
    """Ours, and what torchrun would say to the rank `local_rank` of this node's `processes`."""
    values = {
        "RANK": job.node * processes + local_rank, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": processes,
        "WORLD_SIZE": job.nodes * processes, "GROUP_RANK": job.node,
    }  # fmt: skip
    return {**os.environ, **{key: str(value) for key, value in values.items()}}


def exit_records() -> Path | None:
    """EXTES_EXIT_RECORDS: where the ranks of this node write how they ended."""
    given = os.environ.get("EXTES_EXIT_RECORDS")
    return Path(given) if given else None


def rank_log() -> Path | None:
    """The log file of this rank, below EXTES_RANK_LOGS."""
    given = os.environ.get("EXTES_RANK_LOGS")
    return Path(given) / f"rank-{os.environ.get('RANK', '0')}.log" if given else None


def slurm_environment() -> dict[str, str]:
    """Ours without the SLURM_ and SBATCH_ variables of a job we may be in: they would bend what we submit.

    SLURM_CONF says which cluster, and stays.
    """
    mine = ("SLURM_", "SBATCH_", "SRUN_")
    return {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or not key.startswith(mine)}
