"""Every environment variable that `extes_train` reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# what launchers set MALLOC_MMAP_THRESHOLD_ to on a CPU: else glibc keeps up to twice what is in use (docs/memory.md)
GIVE_BACK_THRESHOLD = "1048576"


@dataclass(frozen=True)
class RankVariables:
    """What torchrun and Slurm say about this process."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int
    restart_count: int


def rank_variables() -> RankVariables:
    """torchrun's variables; a process started by hand is rank 0 of 1."""
    read = os.environ.get
    return RankVariables(
        rank=int(read("RANK", "0")),
        world_size=int(read("WORLD_SIZE", "1")),
        local_rank=int(read("LOCAL_RANK", "0")),
        local_world_size=int(read("LOCAL_WORLD_SIZE", "1")),
        master_addr=read("MASTER_ADDR", "127.0.0.1"),
        master_port=int(read("MASTER_PORT", "0")),
        restart_count=int(read("TORCHELASTIC_RESTART_COUNT", "0")) + int(read("SLURM_RESTART_COUNT", "0")),
    )


def cache_directory() -> Path:
    """EXTES_CACHE, else XDG_CACHE_HOME/extes, else ~/.cache/extes."""
    if given := os.environ.get("EXTES_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extes"


def exit_record_directory() -> Path | None:
    """EXTES_EXIT_RECORDS: where each rank writes how it ended; set by launchers."""
    given = os.environ.get("EXTES_EXIT_RECORDS")
    return Path(given) if given else None


def in_slurm_job() -> bool:
    """True inside a job of Slurm."""
    return "SLURM_JOB_ID" in os.environ


def malloc_threshold() -> str | None:
    """MALLOC_MMAP_THRESHOLD_: from how many bytes on glibc gives freed memory back at once; None: as it likes."""
    return os.environ.get("MALLOC_MMAP_THRESHOLD_")


def wandb_key_present() -> bool:
    """True when wandb can reach its server with a key from the environment or its netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    return any((Path.home() / name).is_file() for name in (".netrc", "_netrc"))


def threads() -> int | None:
    """OMP_NUM_THREADS, or None."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() and int(value) else None
