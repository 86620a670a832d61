"""Submit one run: check, freeze, sbatch; the job's id goes to RUN/slurm/job.json."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from extes_train.dialogue.files import read_json, write_json, write_text
from extes_train.errors import EXIT_OK, LaunchError
from launch.composing import Request
from launch.config import SlurmConfig
from launch.launchers.slurm import evaluation_job, interpreter, training_job
from launch.slurm import commands
from launch.slurm.cluster import check_request, read_cluster
from launch.slurm.freeze import freeze_code, freeze_overrides
from launch.slurm.script import Job, render_script


def submit_run(request: Request, module: str) -> int:
    """Submit `module` for the request's run directory; with launcher.follow, stay until it ends."""
    launcher = request.config.launcher
    assert isinstance(launcher, SlurmConfig)
    run_dir = Path(request.config.run_dir).resolve()
    job = training_job(launcher, run_dir) if module == "extes_train.train" else evaluation_job(launcher, run_dir)
    if launcher.dry_run:
        print(render_script(job, launcher, interpreter(launcher), run_dir / "slurm" / "code"), end="")
        print(f"\n$ sbatch {run_dir}/slurm/{job.name}.sbatch")
        return EXIT_OK
    refuse_second_submission(run_dir)
    if launcher.preflight:
        from launch.preflight import check_launch, refuse

        if module == "extes_train.train":
            check_launch(request)
        else:
            one = replace(launcher, nodes=1, processes_per_node=1, gpus_per_node=job.gpus_per_node)
            refuse(check_request(one, read_cluster()))
    job_id = submit_job(job, launcher, request.overrides)
    print(f"job {job_id} submitted for {run_dir}\n  extes logs {run_dir} -f\n  extes status {run_dir}")
    if launcher.follow:
        from launch.runs import follow

        return follow(run_dir)
    return EXIT_OK


def submit_job(job: Job, launcher: SlurmConfig, overrides: list[str]) -> str:
    """Freeze and submit; returns the job id."""
    code = freeze_code(job.directory)
    freeze_overrides(job.directory / "slurm" / "overrides.txt", overrides)
    script = write_script(job, launcher, code)
    job_id = commands.submit(script)
    record_job(job.directory, job_id, job.directory / "logs" / f"slurm-{job_id}.out", job.name)
    return job_id


def write_script(job: Job, launcher: SlurmConfig, code: Path) -> Path:
    """The sbatch file beside the run, and the directory of its logs: without it Slurm fails a job without a word."""
    (job.directory / "logs").mkdir(parents=True, exist_ok=True)
    script = job.directory / "slurm" / f"{job.name}.sbatch"
    write_text(script, render_script(job, launcher, interpreter(launcher), code))
    return script


def try_submission(job: Job, launcher: SlurmConfig) -> str:
    """`sbatch --test-only` of the very script; returns when it would start. Raises LaunchError."""
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
        file.write(render_script(job, launcher, interpreter(launcher), job.directory / "slurm" / "code"))
        file.flush()
        return commands.test_submission(Path(file.name))


def record_job(run_dir: Path, job_id: str, log: Path, kind: str) -> None:
    """RUN/slurm/job.json: the newest job of a run."""
    value = {"job_id": job_id, "kind": kind, "log": str(log), "submitted": time.strftime("%Y-%m-%dT%H:%M:%S")}
    write_json(run_dir / "slurm" / "job.json", value)


def read_job(run_dir: Path) -> dict[str, Any] | None:
    """The newest job of a run, None where there is none."""
    path = run_dir / "slurm" / "job.json"
    return read_json(path) if path.is_file() else None


def refuse_second_submission(run_dir: Path) -> None:
    """Two jobs must not write to one run directory."""
    job = read_job(run_dir)
    if job is None:
        return
    state = commands.queued_jobs().get(job["job_id"])
    if state is not None and state.active:
        raise LaunchError(
            f"run_dir={run_dir}: job {job['job_id']} is {state.state.lower()} for it; `extes logs {run_dir} -f` "
            f"shows it, `extes cancel {run_dir}` ends it"
        )
