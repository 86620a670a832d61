"""One rank of a Slurm job: `python -m launch.slurm.rank MODULE OVERRIDES`, started by `launch.slurm.node`.

Its output goes to RUN/logs/rank-N.log, and a signal that comes before training can catch it asks for a requeue.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
from types import FrameType

from extes_train.errors import EXIT_REQUEUE
from launch.environment import rank_log
from launch.slurm.node import FOR_RANKS


def main(arguments: list[str]) -> None:
    """Become `python -m MODULE OVERRIDES`."""
    path = rank_log()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    for number in FOR_RANKS:
        signal.signal(number, requeue_now)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_RANKS)  # the node had them blocked until now
    module = arguments[0]
    sys.argv = arguments
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        for number in FOR_RANKS:  # Python's own shutdown takes seconds and would give them back their default: to kill
            signal.signal(number, signal.SIG_IGN)


def requeue_now(number: int, frame: FrameType | None) -> None:
    """Outside training there is nothing to save: record 75 and end."""
    from extes_train.worker import write_exit_record

    why = f"{signal.Signals(number).name} outside training: start again"
    write_exit_record(EXIT_REQUEUE, why)
    os.write(2, f"{why}\n".encode())  # print would refuse inside a print that was interrupted
    with contextlib.suppress(RuntimeError):
        sys.stdout.flush()
    os._exit(EXIT_REQUEUE)


if __name__ == "__main__":
    main(sys.argv[1:])
