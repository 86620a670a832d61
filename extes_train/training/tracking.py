"""Where the numbers go: metrics.jsonl always (rank 0), wandb if asked, and neither can stop a run.

A line of metrics.jsonl tells of the steps since the line before (one step with debug.log_every_steps=1):

    step            optimizer steps completed
    loss            sum(weight * nll) / sum(weight)
    lr, grad_norm   of the last of these steps; the norm before clipping
    tokens          tokens in rows, padding excluded
    flat_tokens     tokens that the multi_turn flat layout needs for the same targets
    targets, weight tokens that carry loss, and their total weight
    seconds         wall-clock time of these steps
    tokens_per_s    tokens / seconds
    memory_bytes    peak memory so far, maximum over ranks
    pairs, flat_pairs   visible (query, key) pairs of the rows, and of the flat layout
    tflops_per_s    what these steps needed (extes_train/model/flops.py), all ranks together
    flat_tflops_per_s   the same for the flat layout's tokens: what it would have had to compute in this time
    mfu             tflops_per_s / peak of all devices, where the peak is known
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extes_train.dialogue.files import write_text
from extes_train.environment import wandb_key_present
from extes_train.training.config import TrackerConfig
from extes_train.training.run_dir import RunDir, append_line

QUEUE_RECORDS = 10_000  # records that may wait for wandb; further ones are dropped
FINISH_TIMEOUT_S = 30.0  # how long the end of a run waits for wandb


class Tracker:
    """Writes metrics.jsonl and heldout.jsonl, and mirrors both to wandb."""

    def __init__(self, run: RunDir, config: TrackerConfig, settings: Mapping[str, Any]) -> None:
        self.run = run
        self.wandb = None if config.name == "none" else WandbFeed(wandb_arguments(run, config, settings))

    def log_step(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        append_line(self.run.metrics, record)
        self._mirror(record, "train")

    def log_heldout(self, record: Mapping[str, Any]) -> None:
        """One line of heldout.jsonl."""
        append_line(self.run.heldout, record)
        self._mirror(record, "heldout")

    def close(self) -> None:
        """End wandb; waits FINISH_TIMEOUT_S at most."""
        if self.wandb is not None:
            self.wandb.close(FINISH_TIMEOUT_S)

    def _mirror(self, record: Mapping[str, Any], prefix: str) -> None:
        if self.wandb is not None:
            values = {f"{prefix}/{key}": value for key, value in record.items() if key != "step"}
            self.wandb.put({"step": record["step"], "values": values})


def wandb_arguments(run: RunDir, config: TrackerConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of wandb.init: offline without a key, and the same id whenever the run directory is used again."""
    online = config.name == "wandb" and wandb_key_present()
    if config.name == "wandb" and not online:
        print("tracker=wandb: no key (WANDB_API_KEY or netrc); recording offline", file=sys.stderr)
    return {
        "project": config.project, "entity": config.entity, "group": config.group, "tags": list(config.tags),
        "name": run.path.name, "id": wandb_id(run), "resume": "allow", "dir": str(run.path.resolve()),
        "mode": "online" if online else "offline", "config": dict(settings),
    }  # fmt: skip


def wandb_id(run: RunDir) -> str:
    """The id in RUN/wandb_id, made at the first call."""
    if not run.wandb_id.is_file():
        write_text(run.wandb_id, uuid.uuid4().hex[:12] + "\n")
    return run.wandb_id.read_text(encoding="utf-8").strip()


class WandbFeed:
    """A pipe to wandb_process.py. Nothing here blocks or raises; what cannot be delivered is counted.

    `record` names the file of the run that has everything.
    """

    def __init__(
        self, arguments: Mapping[str, Any], command: list[str] | None = None, record: str = "metrics.jsonl"
    ) -> None:
        self.dropped = 0
        self.record = record
        self.queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(QUEUE_RECORDS)
        self.process: subprocess.Popen[str] | None = None
        try:
            self.process = subprocess.Popen(
                command or [sys.executable, "-m", "extes_train.training.wandb_process"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
                cwd=Path(__file__).resolve().parents[2],
            )  # fmt: skip
        except OSError as error:
            print(f"wandb: not started: {error}", file=sys.stderr)
        self.thread = threading.Thread(target=self._deliver, name="wandb-feed", daemon=True)
        self.thread.start()
        self.put(arguments)

    def put(self, record: Mapping[str, Any]) -> None:
        """Queue a record, or count it as dropped."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_s: float) -> None:
        """Let wandb finish for `timeout_s`, then end it."""
        try:
            self.queue.put(None, timeout=1.0)
            self.thread.join(timeout_s)
            if self.process is not None:
                self.process.wait(timeout_s)
        except (queue.Full, subprocess.TimeoutExpired):
            assert self.process is not None
            self.process.kill()
            self.process.wait()
            print(f"wandb: ended after {timeout_s:.0f} s; {self.record} is complete", file=sys.stderr)
        if self.process is not None and self.process.poll():
            print(f"wandb: ended with code {self.process.returncode}; {self.record} is complete", file=sys.stderr)
        if self.dropped:
            print(f"wandb: {self.dropped} records not delivered; {self.record} has them", file=sys.stderr)

    def _deliver(self) -> None:
        pipe = None if self.process is None else self.process.stdin
        while (record := self.queue.get()) is not None:
            if pipe is None:
                self.dropped += 1
                continue
            try:
                pipe.write(json.dumps(record) + "\n")
                pipe.flush()
            except (OSError, ValueError):  # wandb's process has ended
                self.dropped += 1
                pipe = None
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                self.dropped += 1
