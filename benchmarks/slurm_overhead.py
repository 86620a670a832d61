"""What a job of ours costs beyond a bare `srun python` of the same training, and how fast one is submitted.

Starts a real Slurm of two nodes on this machine (tests/slurm_cluster; Debian's slurm-wlm and munge), then runs the two
in turn: `srun … python -m extes_train.train`, timed around srun, and `extes train launcher=slurm`, timed from sbatch's
answer to the end of the job. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from machine import describe_machine  # noqa: E402
from slurm_cluster.cluster import SlurmCluster, missing  # noqa: E402
from training.tiny import write_dialogue_file, write_tiny_model  # noqa: E402

BARE = (
    "export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$1 MASTER_PORT=$2; "
    'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1); shift 2; '
    'exec "$@" > "$LOG-$RANK.log" 2>&1'
)
# what our job sets too: the training is to be the same
SAME = {
    "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_THRESHOLD_": "1048576", "PYTHONUNBUFFERED": "1",
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--processes", type=int, default=1, help="per node")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    if why := missing():
        print(json.dumps({"benchmark": "slurm_overhead", "not_measured": why, **describe_machine()}))
        return
    base = Path(tempfile.mkdtemp(prefix="extes-slurm-"))
    base.chmod(0o755)  # munged insists
    (base / "cluster").mkdir()
    with SlurmCluster(base / "cluster") as cluster:
        print(json.dumps(measure(cluster, base, args)))
    shutil.rmtree(base, ignore_errors=True)


def measure(cluster: SlurmCluster, base: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Both kinds in turn, `args.rounds` times, after one of each that fills caches."""
    environment = {**cluster.environment(), **SAME, "EXTES_CACHE": str(base / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    words = training_words(base, args)
    bare, ours, submitted, phases = [], [], [], []
    for number in range(args.rounds + 1):
        bare.append(run_bare(environment, words, base / f"bare-{number}", args))
        times = run_ours(cluster, environment, words, base / f"ours-{number}", args)
        ours.append(times.pop("job"))
        submitted.append(times.pop("submit"))
        phases.append(times)
        same_losses(base / f"bare-{number}", base / f"ours-{number}")
    overheads = [mine - theirs for mine, theirs in zip(ours[1:], bare[1:])]
    return {
        "benchmark": "slurm_overhead",
        "nodes": args.nodes, "processes_per_node": args.processes, "steps": args.steps,
        "overhead_s": round(statistics.median(ours[1:]) - statistics.median(bare[1:]), 2),
        "overheads_s": rounded(overheads),
        "bare_s": rounded(bare[1:]), "job_s": rounded(ours[1:]),
        "submit_cold_s": round(submitted[0], 2), "submit_cached_s": round(statistics.median(submitted[1:]), 2),
        "phases_s": {key: round(statistics.median(phase[key] for phase in phases[1:]), 2) for key in phases[0]},
        "targets": {"overhead_s": 5, "submit_cached_s": 3, "submit_cold_s": 15},
        "slurm": cluster.command("sinfo", "--version").split()[-1],
        **describe_machine(),
    }  # fmt: skip


def training_words(base: Path, args: argparse.Namespace) -> list[str]:
    """A tiny training."""
    write_dialogue_file(base / "dialogues.jsonl")
    write_tiny_model(base / "dialogues.jsonl", base / "model")
    return [
        f"data.train={base}/dialogues.jsonl", f"model.path={base}/model", "data.taxonomy=any", "data.leak_check=false",
        "data.valid_fraction=0.2", "tokens.tokens_per_row=256", "tracker=none", "zero=zero2",
        "optim.dialogues_per_step=8", f"optim.max_steps={args.steps}",
    ]  # fmt: skip


def run_bare(environment: dict[str, str], words: list[str], run: Path, args: argparse.Namespace) -> float:
    """Seconds of srun."""
    run.parent.mkdir(exist_ok=True)
    command = ["srun", f"--nodes={args.nodes}", f"--ntasks-per-node={args.processes}", "bash", "-c", BARE, "bare"]
    command += [str(args.processes), str(29000 + os.getpid() % 1000)]
    command += [sys.executable, "-m", "extes_train.train", *words, f"run_dir={run}"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "LOG": str(run)}, cwd=ROOT)
    seconds = time.monotonic() - start
    if done.returncode:
        logs = "".join(path.read_text() for path in run.parent.glob(f"{run.name}-*.log"))
        raise RuntimeError(f"bare srun: {done.stderr}\n{logs}")
    return seconds


def run_ours(
    cluster: SlurmCluster, environment: dict[str, str], words: list[str], run: Path, args: argparse.Namespace
) -> dict[str, float]:
    """Seconds of the submission, of the job, and of the job's parts."""
    slurm = ["launcher=slurm", f"launcher.nodes={args.nodes}", f"launcher.processes_per_node={args.processes}"]
    slurm += ["launcher.time_limit=30"]
    command = [sys.executable, "-m", "launch", "train", *words, *slurm, f"run_dir={run}"]
    start = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)
    queued = time.time()
    job = json.loads((run / "slurm" / "job.json").read_text())["job_id"]
    while "JobState=COMPLETED" not in (shown := cluster.command("scontrol", "show", "job", "--oneliner", job)):
        if not any(f"JobState={state}" in shown for state in ("PENDING", "RUNNING", "COMPLETING")):
            raise RuntimeError(f"{shown}\n{(run / 'logs' / f'slurm-{job}.out').read_text()}")
        time.sleep(0.1)
    ended = time.time()
    attempts = [json.loads(line) for line in (run / "logs" / "attempts.jsonl").read_text().splitlines()]
    exits = [json.loads(path.read_text())["time"] for path in run.glob("logs/exit/node-*/rank-*.json")]
    begun, judged = attempts[0]["time"], attempts[-1]["time"]
    return {
        "submit": queued - start, "job": ended - queued, "until_begin": begun - queued,
        "workers": max(exits) - begun, "after_workers": judged - max(exits), "after_verdict": ended - judged,
    }  # fmt: skip


def same_losses(one: Path, other: Path) -> None:
    """Both trained the same."""
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)
    ]
    if losses[0] != losses[1]:
        raise RuntimeError(f"{one} and {other} differ: {losses[0][-1]} and {losses[1][-1]}")


def rounded(values: list[float]) -> list[float]:
    """To hundredths."""
    return [round(value, 2) for value in values]


if __name__ == "__main__":
    main()
