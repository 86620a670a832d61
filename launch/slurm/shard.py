"""One shard of a generation: `python -m launch.slurm.shard OVERRIDES` is `extes generate OVERRIDES` for a Slurm job.

A signal of Slurm stops it as Ctrl-C would, with the journal closed, but with a request to be started again.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

from extes_train.errors import Interrupted, Requeue
from launch.main import run_verb
from launch.slurm.node import FOR_RANKS


def main(arguments: Sequence[str]) -> None:
    """Generate. Raises Requeue where Slurm wants the node back."""
    received: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        if len(received) == 1:
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever it was started with
    for number in FOR_RANKS:
        signal.signal(number, stop)
    try:
        run_verb(["generate", *arguments])
    except (Interrupted, KeyboardInterrupt):
        if not received:
            raise
        raise Requeue(f"{received[0]}: stopped; the journal says where to go on") from None


def start() -> None:
    """Run `main` with a worker's exit codes and record."""
    from extes_train.worker import run_worker

    run_worker(main)


if __name__ == "__main__":
    start()
