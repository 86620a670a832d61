"""One node of a Slurm job: `python -m launch.slurm.node PROCESSES MODULE OVERRIDES`, srun's one task there.

It starts the node's ranks, watches them and says how they ended. torchrun would do that too, but importing it costs
seconds of every job, and its patience with a worker that writes a checkpoint is short; meeting again after a restart
is Slurm's business here, not torchrun's. MASTER_ADDR and MASTER_PORT come from the sbatch file.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from extes_train.errors import EXIT_OK, EXIT_REQUEUE
from launch.environment import slurm_job, slurm_rank_environment

POLL_S = 0.1
PATIENCE_S = 5.0  # with the ranks that lost one of theirs: they cannot go on
REQUEUE_PATIENCE_S = 120.0  # with those that still write what the first one to end has agreed to
# Slurm sends these to every process of a step. They are for the ranks, so here they stay blocked, for good; a rank
# inherits that and unblocks them once its handlers are there, so that none can come too early.
FOR_RANKS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main(arguments: Sequence[str]) -> int:
    """Run this node's ranks; returns `wait_for`'s code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FOR_RANKS)
    processes, job = int(arguments[0]), slurm_job()
    command = [sys.executable, "-m", "launch.slurm.rank", *arguments[1:]]
    return wait_for(
        [
            subprocess.Popen(command, env=slurm_rank_environment(job, local_rank, processes))
            for local_rank in range(processes)
        ]
    )


def wait_for(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """0 when every rank ended well or checkpointed (srun would kill the other nodes' ranks on any other code).

    Else the first failing rank's code; a signal counts as 128 + its number. Once a rank has ended before its time,
    the others are told to stop too, and killed where they do not.
    """
    running, code, deadline = list(ranks), EXIT_OK, float("inf")
    while running:
        time.sleep(POLL_S)
        ended = [rank for rank in running if rank.poll() is not None]
        running = [rank for rank in running if rank not in ended]
        for rank in ended:
            if rank.returncode == EXIT_OK:
                continue
            failed = rank.returncode != EXIT_REQUEUE
            if failed and code == EXIT_OK:
                code = rank.returncode if rank.returncode > 0 else 128 - rank.returncode
            if deadline == float("inf"):
                for other in running:
                    other.terminate()
            deadline = min(deadline, time.monotonic() + (PATIENCE_S if failed else REQUEUE_PATIENCE_S))
        if time.monotonic() > deadline:
            for rank in running:
                rank.kill()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
