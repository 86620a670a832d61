"""What became of a run: from its files, and from Slurm where it ran there."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extes_train.dialogue.files import read_json
from extes_train.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_REQUEUE, LaunchError
from launch.environment import slurm_conf_present

SKIPPED = {"checkpoints", "model", "evaluation", "slurm", "logs", "wandb", "code", "base", "generated", "inpainted"}
DEPTH = 5  # directories below the one asked for


@dataclass
class RunStatus:
    """One line of `extes status`."""

    run: Path
    state: str
    job_id: str = ""
    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    error: str = ""


# ---------------------------------------------------------------------------------------------------- finding runs


def is_run(path: Path) -> bool:
    """A directory that a run or a submission has made."""
    return any((path / name).exists() for name in ("config.yaml", "metrics.jsonl", "slurm/job.json"))


def find_runs(root: Path) -> Iterator[Path]:
    """Every run at or below `root`, in order of name."""

    def walk(path: Path, depth: int) -> Iterator[Path]:
        if is_run(path):
            yield path
        if depth:
            for child in sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith(".")):
                if child.name not in SKIPPED:
                    yield from walk(child, depth - 1)

    if root.is_dir():
        yield from walk(root, DEPTH)


def read_slurm_job(run: Path) -> dict[str, Any] | None:
    """RUN/slurm/job.json."""
    path = run / "slurm" / "job.json"
    return read_json(path) if path.is_file() else None


def slurm_states(runs: Iterable[Path]) -> dict[str, Any]:
    """Job id -> state of the runs' jobs; {} without Slurm."""
    ids = [str(job["job_id"]) for run in runs if (job := read_slurm_job(run))]
    if not ids or not slurm_reachable():
        return {}
    from launch.slurm.commands import job_states

    try:
        return dict(job_states(ids))
    except LaunchError as error:
        print(f"extes: {error}", file=sys.stderr)
        return {}


def slurm_reachable() -> bool:
    """True where asking Slurm makes sense."""
    return shutil.which("squeue") is not None and slurm_conf_present()


def job_state(job_id: str) -> str:
    """One job's state in words, 'unknown' where nobody remembers."""
    from launch.slurm.commands import job_states

    if not slurm_reachable():
        return "unknown"
    found = job_states([job_id]).get(job_id)
    return found.state.lower() if found else "unknown"


# ---------------------------------------------------------------------------------------------------------- status


def describe_run(run: Path, states: dict[str, Any]) -> RunStatus:
    """From metrics, checkpoints, exit records, and the job's state where there is one."""
    job = read_slurm_job(run)
    shown = RunStatus(run, file_state(run), str(job["job_id"]) if job else "")
    known = states.get(shown.job_id)
    if known is not None:
        shown.state = slurm_state(run, known)
    lines = last_metrics(run)
    if lines:
        shown.step, shown.loss = int(lines[-1]["step"]), lines[-1].get("loss")
        shown.tokens_per_s = lines[-1].get("tokens_per_s")
    shown.total_steps = total_steps(run)
    if shown.total_steps and shown.state == "running":
        seconds = sorted(line["seconds"] for line in lines if "seconds" in line)
        if seconds:
            shown.seconds_left = (shown.total_steps - shown.step) * seconds[len(seconds) // 2]
    if shown.state in ("failed", "stopped"):
        shown.error = last_error(run)
    return shown


def file_state(run: Path) -> str:
    """finished | failed | requeue | running | stopped | waiting, from the files alone."""
    if (run / "cost.json").is_file() and (run / "model").is_dir():
        return "finished"
    if (run / "requeue").exists():
        return "requeue"
    codes = [record["code"] for record in exit_records(run)]
    if any(code not in (EXIT_OK, EXIT_REQUEUE, EXIT_INTERRUPTED) for code in codes):
        return "failed"
    metrics = run / "metrics.jsonl"
    if processes_of(run):
        return "running"
    return "stopped" if metrics.is_file() else "waiting"


def slurm_state(run: Path, known: Any) -> str:
    """Slurm's state in our words."""
    if known.state == "COMPLETED" or (known.state not in ("RUNNING", "COMPLETING") and file_state(run) == "finished"):
        return "finished"
    if known.state == "PENDING":
        reason = f" ({known.reason})" if known.reason not in ("", "None") else ""
        return f"pending{reason}"
    if known.state in ("FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"):
        return "failed"
    return str(known.state).lower()


def last_metrics(run: Path, count: int = 20) -> list[dict[str, Any]]:
    """The last whole lines of metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 400 * count))
        text = file.read().decode("utf-8", errors="replace")
    lines = []
    for line in text.splitlines()[-count:]:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict) and "step" in line]


def total_steps(run: Path) -> int | None:
    """optim.max_steps of RUN/config.yaml; overrides.txt has the last word."""
    path = run / "config.yaml"
    if not path.is_file():
        return None
    import yaml

    optim = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("optim") or {}
    steps = optim.get("max_steps")
    return int(steps) if steps else None


def exit_records(run: Path) -> list[dict[str, Any]]:
    """Ranks' exit records, of Slurm (by node) and of local launchers, by time."""
    found = []
    for path in [*run.glob("logs/exit/rank-*.json"), *run.glob("logs/exit/node-*/rank-*.json")]:
        try:
            found.append(read_json(path))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda record: float(record.get("time", 0.0)))


def last_error(run: Path) -> str:
    """The last line of what the first failing rank said, else of the job's log."""
    failed = [record for record in exit_records(run) if record["code"] not in (EXIT_OK, EXIT_REQUEUE)]
    if failed:
        # ranks that were stopped say the same, and rank 0 says it shortest
        alike = [record for record in failed if record["code"] == EXIT_INTERRUPTED == failed[0]["code"]]
        first = min(alike, key=lambda record: record["rank"]) if alike else failed[0]
        lines = [line for line in first.get("traceback", "").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"rank {first['rank']} ended with code {first['code']}"
    job = read_slurm_job(run)
    if job and Path(job["log"]).is_file():
        lines = Path(job["log"]).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""


def processes_of(run: Path) -> list[Any]:
    """Workers on this machine that write to `run`."""
    import psutil

    run = run.resolve()
    found = []
    for process in psutil.process_iter(["cmdline", "uids"]):
        words = process.info["cmdline"] or []
        if any(word.startswith("extes_train.") for word in words) and any(
            word.partition("=")[0] == "run_dir" and Path(word.partition("=")[2].strip("'\"")) == run for word in words
        ):
            found.append(process)
    return found
