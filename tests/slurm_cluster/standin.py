"""A worker that only counts: what the Slurm plumbing sees of a training run, without torch.

`python -m standin run=DIR steps=N [seconds=S] [fail=RANK]`: writes DIR/metrics.jsonl and checkpoints like a run's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from extes_train.errors import Requeue
from extes_train.worker import run_worker


def main(arguments: Sequence[str]) -> None:
    values = dict(word.partition("=")[::2] for word in arguments)
    run, steps, seconds = Path(values["run"]), int(values["steps"]), float(values.get("seconds", "0.1"))
    rank = int(os.environ["RANK"])
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, frame: stop.append(received))
    done = [int(path.parent.name[5:]) for path in run.glob("checkpoints/step-*/COMPLETED")]
    print(f"rank {rank} of {os.environ['WORLD_SIZE']} starts after step {max(done, default=0)}")
    print(f"rank {rank} sees GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    for step in range(max(done, default=0) + 1, steps + 1):
        time.sleep(seconds)
        if values.get("fail") == str(rank) and step == 2:
            raise ValueError(f"rank {rank} does not like step 2")
        if rank == 0:
            with open(run / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": step, "loss": 1 / step, "tokens_per_s": 10.0}) + "\n")
        if stop:
            if rank == 0:
                (run / "checkpoints" / f"step-{step}").mkdir(parents=True)
                (run / "checkpoints" / f"step-{step}" / "COMPLETED").touch()
                (run / "requeue").touch()
            raise Requeue(f"checkpointed at step {step}")
    if rank == 0:
        (run / "model").mkdir()
        (run / "cost.json").write_text("{}")


if __name__ == "__main__":
    print(sys.argv)
    run_worker(main)
