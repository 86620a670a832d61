"""How an attempt of a Slurm job ended, and whether there is to be another.

`python -m launch.slurm.verdict begin RUN` before the workers, `… end RUN CODE` after them; the exit code of the
latter is the job's, 75 meaning "requeue". RUN/logs/attempts.jsonl remembers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extes_train.errors import EXIT_INTERNAL, EXIT_OK, EXIT_REQUEUE
from launch.environment import slurm_job

EXIT_KILLED = 137
LOST_PEER = re.compile(
    r"closed by (remote )?peer|reset by peer|Broken pipe|remote process exited|ncclRemoteError|ncclSystemError"
    r"|communicator (was|is) aborted|connectFullMesh|Timed out waiting|Socket Timeout|failed to recv"
    r"|Connection refused",
    re.IGNORECASE,
)
STARTS_WITHOUT_PROGRESS = 3  # requeues that ended at the same step before we stop


@dataclass
class Verdict:
    """`code` is the job's exit code, `text` the last words of its log."""

    code: int
    text: str


def judge_attempt(run: Path, code: int, attempts: Sequence[Mapping[str, Any]], max_requeues: int) -> Verdict:
    """Judge the attempt from srun's `code`, the ranks' exit records and the earlier attempts.

    What happened first decides: the other ranks of a failing one are told to stop and may well checkpoint, and those
    of a killed one fail because it is gone.
    """
    ranks = read_records(run / "logs" / "exit")
    marked = (run / "requeue").exists()
    own_fault = [record for record in ranks if record["code"] not in (EXIT_OK, EXIT_REQUEUE) and not lost_peer(record)]
    requeues = [record for record in ranks if record["code"] == EXIT_REQUEUE]
    if own_fault and not (requeues and requeues[0]["time"] < own_fault[0]["time"]):
        first = own_fault[0]
        where = f"rank {first['rank']} on {first['host']}"
        return Verdict(first["code"], f"{where} ended with code {first['code']}\n{first['traceback']}")
    if marked or requeues:
        reason = "checkpointed" if marked else "stopped by a signal"
        return _again(run, reason, attempts, max_requeues, STARTS_WITHOUT_PROGRESS, EXIT_REQUEUE)
    if code == EXIT_OK:
        return Verdict(EXIT_OK, "finished")
    return _again(run, "a worker was killed or its node lost", attempts, max_requeues, 2, EXIT_KILLED)


def lost_peer(record: Mapping[str, Any]) -> bool:
    """True for the error of a rank that only noticed that another one is gone."""
    return record["code"] == EXIT_INTERNAL and bool(LOST_PEER.search(record["traceback"][-2000:]))


def _again(
    run: Path, reason: str, attempts: Sequence[Mapping[str, Any]], max_requeues: int, starts: int, code: int
) -> Verdict:
    """Another start, unless there were too many, or the last `starts` ended at the same step."""
    step = current_step(run)
    ended = [attempt["step"] for attempt in attempts if attempt["event"] == "end"]
    if len(ended) >= max_requeues:
        return Verdict(code, f"{reason} at step {step}; not requeued: launcher.max_requeues={max_requeues}")
    recent = [*ended, step][-starts:]
    if len(recent) == starts and len(set(recent)) == 1:
        return Verdict(EXIT_INTERNAL, f"{reason} at step {step}, {starts} times in a row without a step: stopped")
    return Verdict(EXIT_REQUEUE, f"{reason} at step {step}; requeued")


def read_records(directory: Path) -> list[dict[str, Any]]:
    """The ranks' exit records by time; a killed rank leaves none."""
    ranks = [json.loads(path.read_text()) for path in directory.glob("node-*/rank-*.json")]
    return sorted(ranks, key=lambda record: record["time"])


def current_step(run: Path) -> int:
    """Step of the newest completed checkpoint, of a generation the lines of its journal; 0 before the first."""
    if (run / "journal.jsonl").is_file():
        return (run / "journal.jsonl").read_bytes().count(b"\n")
    return max((int(path.parent.name[5:]) for path in run.glob("checkpoints/step-*/COMPLETED")), default=0)


def read_attempts(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/logs/attempts.jsonl of the present job."""
    path = run / "logs" / "attempts.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    job = slurm_job().job_id
    return [attempt for attempt in map(json.loads, lines) if attempt["job"] == job]


def record_attempt(run: Path, event: str, **values: Any) -> None:
    """Append a line to RUN/logs/attempts.jsonl."""
    job = slurm_job()
    line = {"event": event, "job": job.job_id, "restart": job.restart_count, "time": time.time(), **values}
    with open(run / "logs" / "attempts.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def begin(run: Path) -> int:
    """Clear what the attempt before left."""
    shutil.rmtree(run / "logs" / "exit", ignore_errors=True)
    (run / "logs" / "exit").mkdir(parents=True)
    (run / "requeue").unlink(missing_ok=True)
    record_attempt(run, "begin", step=current_step(run))
    restart = slurm_job().restart_count
    print(f"extes: {time.strftime('%F %T')} start {restart + 1}, ranks write to {run}/logs/rank-*.log", flush=True)
    return EXIT_OK


def end(run: Path, code: int, max_requeues: int) -> int:
    """Judge, remember and say it."""
    verdict = judge_attempt(run, code, read_attempts(run), max_requeues)
    if verdict.code != EXIT_REQUEUE:
        (run / "requeue").unlink(missing_ok=True)  # a rank may have checkpointed while another failed
    record_attempt(run, "end", step=current_step(run), code=verdict.code)
    print(f"extes: {time.strftime('%F %T')} {verdict.text}", flush=True)
    return verdict.code


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="launch.slurm.verdict")
    parser.add_argument("event", choices=("begin", "end"))
    parser.add_argument("run", type=Path)
    parser.add_argument("code", type=int, nargs="?", default=0)
    parser.add_argument("--max-requeues", type=int, default=0)
    values = parser.parse_args(arguments)
    if values.event == "begin":
        return begin(values.run)
    return end(values.run, values.code, values.max_requeues)


if __name__ == "__main__":
    sys.exit(main())
