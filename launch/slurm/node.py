"""One node of a Slurm job: `python -m launch.slurm.node TORCHRUN-ARGUMENTS`, the one task that srun starts there.

Slurm signals every process of a step. The workers are to write a checkpoint, which can take longer than torchrun's
patience, so the agent itself ignores those signals and waits for them.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType

from extes_train.errors import EXIT_OK, EXIT_REQUEUE
from launch import agent
from launch.environment import exit_records

IGNORED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main(arguments: list[str]) -> int:
    """Run this node's workers. 0 also when they checkpointed: srun would kill the other nodes' on any other code."""
    for number in IGNORED:
        signal.signal(number, _ignore)  # a handler, not SIG_IGN: that would be inherited by the workers
    code = agent.main(arguments)
    return EXIT_OK if code != EXIT_OK and _only_requeues() else code


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def _only_requeues() -> bool:
    """True when every worker of this node that failed asked to be started again."""
    records = exit_records()
    if records is None or not (records / "agent.json").is_file():
        return False
    return all(failure["exitcode"] == EXIT_REQUEUE for failure in json.loads((records / "agent.json").read_text()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
