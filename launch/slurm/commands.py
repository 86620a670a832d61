"""Slurm's commands: the only place that starts them, and the parsing of what they print."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from extes_train.errors import LaunchError
from launch.environment import slurm_environment

COMMAND_TIMEOUT_S = 60.0
ACTIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "PREEMPTED")


@dataclass(frozen=True)
class JobState:
    """One job, or one task of an array, as squeue or sacct show it."""

    job_id: str  # 12 or 12_3
    state: str  # RUNNING, PENDING, COMPLETED, …
    reason: str = ""  # why it pends
    elapsed: str = ""
    nodes: str = ""
    exit_code: str = ""

    @property
    def active(self) -> bool:
        """Still queued or running."""
        return self.state in ACTIVE


def run_command(words: Sequence[str]) -> str:
    """Standard output of a Slurm command. Raises LaunchError with what it said."""
    if shutil.which(words[0]) is None:
        raise LaunchError(f"launcher=slurm: no `{words[0]}` on this machine; log in to a node of the cluster first")
    try:
        done = subprocess.run(
            list(words), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, env=slurm_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{words[0]}: no answer within {COMMAND_TIMEOUT_S:.0f} s; is the controller up?") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        why = next((line for line in said if "fatal" in line), said[0] if said else f"exit {done.returncode}")
        raise LaunchError(f"{' '.join(words[:3])}: {why}")
    return done.stdout + (done.stderr if "--test-only" in words else "")


def submit(script: Path, dependency: str | None = None, array: str | None = None, hold: bool = False) -> str:
    """sbatch `script`; returns the job id."""
    words = ["sbatch", "--parsable"]
    words += [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
    words += [f"--array={array}"] if array else []
    words += ["--hold"] if hold else []
    return run_command([*words, str(script)]).strip().split(";")[0]


def test_submission(script: Path, array: str | None = None) -> str:
    """`sbatch --test-only`: when it would start. Raises LaunchError where it never could."""
    words = ["sbatch", "--test-only", *([f"--array={array}"] if array else []), str(script)]
    answer = run_command(words)
    match = re.search(r"to start at (\S+)", answer)
    return match.group(1) if match else answer.strip()


def release(job_ids: Iterable[str]) -> None:
    """Let held jobs run."""
    for job_id in job_ids:
        run_command(["scontrol", "release", job_id])


def cancel(job_ids: Sequence[str]) -> None:
    """scancel."""
    if job_ids:
        run_command(["scancel", *job_ids])


def queued_jobs() -> dict[str, JobState]:
    """The user's jobs in the queue by id; tasks of arrays one by one."""
    text = run_command(["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T|%r|%M|%N"])
    jobs = {}
    for line in text.splitlines():
        job_id, state, reason, elapsed, nodes = line.split("|")
        jobs[job_id] = JobState(job_id, state, reason, elapsed, nodes)
    return jobs


def finished_jobs(job_ids: Sequence[str]) -> dict[str, JobState]:
    """What is known about jobs that may have left the queue: by sacct, and by scontrol what sacct does not know (yet).

    {} where both have forgotten.
    """
    if not job_ids:
        return {}
    try:
        known = _accounted(job_ids)
    except LaunchError:  # no accounting here
        known = {}
    return {**_remembered([job_id for job_id in job_ids if job_id not in known]), **known}


def _accounted(job_ids: Sequence[str]) -> dict[str, JobState]:
    columns = "JobID,State,Elapsed,NodeList,ExitCode"
    words = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--format={columns}",
        f"--jobs={','.join(job_ids)}",
    ]
    jobs = {}
    for line in run_command(words).splitlines():
        job_id, state, elapsed, nodes, code = line.split("|")
        jobs[job_id] = JobState(job_id, state.split()[0], "", elapsed, nodes, code)
    return jobs


def _remembered(job_ids: Sequence[str]) -> dict[str, JobState]:
    """The controller remembers finished jobs for MinJobAge seconds."""
    jobs = {}
    for job_id in job_ids:
        try:
            text = run_command(["scontrol", "show", "job", "--oneliner", job_id])
        except LaunchError:
            continue
        for line in filter(None, text.splitlines()):
            facts = key_values(line)
            name = f"{facts['ArrayJobId']}_{facts['ArrayTaskId']}" if "ArrayTaskId" in facts else facts["JobId"]
            reason = facts.get("Reason", "").replace("None", "")
            jobs[name] = JobState(
                name, facts["JobState"], reason, facts.get("RunTime", ""), facts.get("NodeList", ""),
                facts.get("ExitCode", ""),
            )  # fmt: skip
    return jobs


def job_states(job_ids: Sequence[str]) -> dict[str, JobState]:
    """Every one of `job_ids` that Slurm still knows."""
    queued = queued_jobs()
    known = {job_id: queued[job_id] for job_id in job_ids if job_id in queued}
    return {**finished_jobs([job_id for job_id in job_ids if job_id not in known]), **known}


def key_values(line: str) -> dict[str, str]:
    """`Key=value` words of scontrol's one-line form."""
    return dict(re.findall(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)", line))
