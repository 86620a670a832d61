"""The verbs `status`, `logs`, `cancel` and `sync`, for runs on this machine and on Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from extes_train.dialogue.files import read_json
from extes_train.environment import wandb_key_present
from extes_train.errors import EXIT_INTERNAL, EXIT_OK, UserError, terminal_width
from launch.run_state import (
    RunStatus,
    describe_run,
    exit_records,
    find_runs,
    job_state,
    processes_of,
    read_slurm_job,
    slurm_reachable,
    slurm_states,
)

POLL_S = 0.5
GRACE_S = 5.0  # output that comes after a job has ended


def status(arguments: Sequence[str]) -> int:
    """`extes status [DIR]`."""
    words = _words("status", arguments, "[DIR]", at_most=1)
    if words is None:
        return EXIT_OK
    root = Path(words[0] if words else "outputs")
    runs = list(find_runs(root))
    if not runs:
        raise UserError(f"{root}: no run here; `extes status DIR` looks below DIR")
    states = slurm_states(runs)
    print(render_status([describe_run(run, states) for run in runs], root, terminal_width(sys.stdout)))
    return EXIT_OK


def logs(arguments: Sequence[str]) -> int:
    """`extes logs RUN [-f] [--rank N]`."""
    words = _words("logs", arguments, "RUN [-f] [--rank N]", at_most=1, options=("-f", "--follow", "--rank"))
    if words is None:
        return EXIT_OK
    if not words:
        raise UserError("extes logs: needs the run directory")
    run = existing_run(words[0])
    rank = int(arguments[list(arguments).index("--rank") + 1]) if "--rank" in arguments else None
    if "-f" in arguments or "--follow" in arguments:
        return follow(run, rank)
    shown = False
    for path in log_files(run, rank):
        if path.is_file():
            print(f"==> {path}")
            print(path.read_text(encoding="utf-8", errors="replace"), end="")
            shown = True
    if not shown:
        job = read_slurm_job(run)
        why = f"; job {job['job_id']} is {job_state(job['job_id'])}" if job else " in files"
        if not job and (run / "config.yaml").is_file():
            why = "; what runs on this machine prints to its terminal. Its steps are in metrics.jsonl"
        print(f"{run}: no output{why}", file=sys.stderr)
    return EXIT_OK


def cancel(arguments: Sequence[str]) -> int:
    """`extes cancel RUN`: a run, or every run and job below a directory."""
    words = _words("cancel", arguments, "RUN", at_most=1)
    if words is None:
        return EXIT_OK
    if not words:
        raise UserError("extes cancel: needs a run directory, or a directory of runs")
    root = existing_run(words[0])
    stopped = cancel_jobs(root) + interrupt_processes(root)
    for line in stopped:
        print(line)
    if not stopped:
        print(f"{root}: nothing is queued or running", file=sys.stderr)
    return EXIT_OK


def sync(arguments: Sequence[str]) -> int:
    """`extes sync [DIR]`: send offline wandb records below DIR to the server."""
    words = _words("sync", arguments, "[DIR]", at_most=1)
    if words is None:
        return EXIT_OK
    root = Path(words[0] if words else "outputs")
    found = sorted(path.parent for path in root.glob("**/offline-run-*/run-*.wandb"))
    waiting = [path for path in found if not list(path.glob("*.wandb.synced"))]
    if not waiting:
        print(f"{root}: {'all offline records are sent' if found else 'no offline wandb records'}")
        return EXIT_OK
    if not wandb_key_present():
        raise UserError("extes sync: no key for wandb; set WANDB_API_KEY, or run `wandb login` once")
    for done, path in enumerate(waiting):
        # a run that was resumed has several records; the server joins them by its id
        if subprocess.call([sys.executable, "-m", "wandb", "sync", str(path)]) != 0:
            print(f"extes sync: {path}: not sent (above); {len(waiting) - done} to go", file=sys.stderr)
            return EXIT_INTERNAL
    return EXIT_OK


def _words(
    verb: str, arguments: Sequence[str], usage: str, at_most: int, options: tuple[str, ...] = ()
) -> list[str] | None:
    """The positional arguments; None when help was printed."""
    if "-h" in arguments or "--help" in arguments:
        from launch.main import VERBS

        print(f"usage: extes {verb} {usage}\n\n{VERBS[verb].summary}.")
        return None
    words, skip = [], False
    for word in arguments:
        if skip:
            skip = False
        elif word == "--rank" and word in options:
            skip = True
        elif word.startswith("-"):
            if word not in options:
                raise UserError(f"extes {verb} {word}: no such option; usage: extes {verb} {usage}")
        else:
            words.append(word)
    if len(words) > at_most:
        raise UserError(f"extes {verb}: {words[at_most]!r} is one too many; usage: extes {verb} {usage}")
    if "--rank" in arguments:
        after = list(arguments)[list(arguments).index("--rank") + 1 :][:1]
        if not after or not after[0].isdigit():
            raise UserError("extes logs --rank: needs a number")
    return words


# ---------------------------------------------------------------------------------------------------------- status


def existing_run(text: str) -> Path:
    """The directory, absolute. Raises UserError where there is none."""
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise UserError(f"{text}: no such directory")
    return path


def render_status(rows: Sequence[RunStatus], root: Path, columns: int | None = None) -> str:
    """A table; errors on lines of their own, broken at `columns`."""
    header = ("run", "state", "job", "step", "loss", "tokens/s", "left")
    table = [header, *(_cells(row, root) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    lines = []
    for cells, row in zip(table, [None, *rows]):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
        if row is not None and row.error:
            lines.append(textwrap.fill(row.error, columns or 10_000, initial_indent=" " * 4, subsequent_indent=" " * 4))
    return "\n".join(lines)


def _cells(row: RunStatus, root: Path) -> tuple[str, ...]:
    name = os.path.relpath(row.run, root)
    return (
        row.run.name if name == "." else name,
        row.state,
        row.job_id,
        f"{row.step}/{row.total_steps}" if row.total_steps else str(row.step),
        "" if row.loss is None else f"{row.loss:.4f}",
        "" if row.tokens_per_s is None else f"{row.tokens_per_s:,.0f}",
        "" if row.seconds_left is None else _duration(row.seconds_left),
    )


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


# ------------------------------------------------------------------------------------------------------------ logs


def log_files(run: Path, rank: int | None = None) -> list[Path]:
    """What `extes logs` shows: the job's own output and rank 0's, or one rank's."""
    if rank is not None:
        path = run / "logs" / f"rank-{rank}.log"
        if not path.is_file():
            ranks = sorted(item.stem.split("-")[1] for item in run.glob("logs/rank-*.log"))
            raise UserError(f"{path}: no such log; ranks with one: {', '.join(ranks) or 'none'}")
        return [path]
    job = read_slurm_job(run)
    return [*([Path(job["log"])] if job else []), run / "logs" / "rank-0.log"]


def follow(run: Path, rank: int | None = None) -> int:
    """Show the log as it grows until the job ends; returns 0 if it completed. Ctrl-C leaves the job alone."""
    job = read_slurm_job(run)
    places = dict.fromkeys(log_files(run, rank), 0)
    ended: float | None = None
    checked = 0.0
    state = ""
    try:
        while ended is None or time.monotonic() - ended < (0 if state == "gone" else GRACE_S):
            grown = [_print_new(path, places) for path in places]
            if ended is None and job is not None and time.monotonic() - checked > 4 * POLL_S:
                checked = time.monotonic()
                state = job_state(str(job["job_id"]))
                if state.upper() not in _active():
                    ended = time.monotonic()
            elif ended is None and job is None and not processes_of(run):
                ended, state = time.monotonic(), "gone"
            if not any(grown):
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        print(f"\nnot followed any more; `extes cancel {run}` ends the job", file=sys.stderr)
        return EXIT_OK
    if job is None or state in ("completed", "unknown"):
        return EXIT_OK
    print(f"extes: job {job['job_id']}: {state}", file=sys.stderr)
    return EXIT_INTERNAL if state != "failed" else _first_code(run)


def _active() -> tuple[str, ...]:
    from launch.slurm.commands import ACTIVE

    return ACTIVE


def _first_code(run: Path) -> int:
    codes = [int(record["code"]) for record in exit_records(run) if record["code"] not in (0, 75)]
    return codes[0] if codes else EXIT_INTERNAL


def _print_new(path: Path, places: dict[Path, int]) -> bool:
    if not path.is_file() or path.stat().st_size <= places[path]:
        return False
    with open(path, "rb") as file:
        file.seek(places[path])
        data = file.read()
    places[path] += len(data)
    sys.stdout.write(data.decode("utf-8", errors="replace"))
    sys.stdout.flush()
    return True


# ---------------------------------------------------------------------------------------------------------- cancel


def cancel_jobs(root: Path) -> list[str]:
    """scancel every queued or running job at or below `root`; returns what was done."""
    ids: dict[str, Path] = {}
    for run in find_runs(root):
        job = read_slurm_job(run)
        if job:
            ids[str(job["job_id"])] = run
    table = root / "slurm" / "jobs.json"
    if table.is_file():
        ids |= {str(job_id): root for job_id in read_json(table).get("job_ids", [])}
    if not ids or not slurm_reachable():
        return []
    from launch.slurm import commands

    queued = commands.queued_jobs()
    wanted = [job for job in queued if (job in ids or job.split("_")[0] in ids) and queued[job].active]
    commands.cancel(sorted(wanted))
    return [f"job {job} cancelled ({ids.get(job) or ids[job.split('_')[0]]})" for job in sorted(wanted)]


def interrupt_processes(root: Path) -> list[str]:
    """SIGINT to the workers of runs below `root` on this machine: they checkpoint and end."""
    import psutil

    lines = []
    for run in find_runs(root):
        for process in processes_of(run):
            if "launch.agent" in (process.info["cmdline"] or []):
                continue  # the agent ends with its workers
            try:
                process.send_signal(signal.SIGINT)
                lines.append(f"process {process.pid} told to stop ({run})")
            except psutil.Error:
                continue
    return lines
