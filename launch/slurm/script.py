"""The text of an sbatch file: a pure function of a job and the launcher's settings.

What a job is made of, top to bottom: #SBATCH lines, the site's modules and set-up lines, variables, the rendezvous,
one srun with one task per node, which starts that node's ranks, and what becomes of the exit code. `slurm/*.sbatch`
are the same files by hand.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extes_train.environment import GIVE_BACK_THRESHOLD
from extes_train.errors import ConfigError
from launch.config import SlurmConfig

PORTS = (15000, 15000)  # MASTER_PORT = first + job id % count: below Linux's ephemeral ports


@dataclass
class Job:
    """One sbatch file. Paths are absolute."""

    title: str  # first comment line
    name: str
    directory: Path  # holds slurm/ (script, overrides, code) and logs/
    module: str  # what each worker runs, e.g. extes_train.train
    arguments: Sequence[str] = ()  # of a plain job; workers read overrides from a file
    nodes: int = 1
    processes_per_node: int = 1
    gpus_per_node: int = 0
    time_limit: str = "24:00:00"
    signal: bool = False  # warn the workers before the time limit; they ask for a requeue
    requeue: bool = False  # may be started again
    workers: bool = True  # ranks that get signals, leave exit records and may ask for a requeue; False: one process
    array: bool = False  # the task's run directory and overrides come from DIRECTORY/slurm/arms/INDEX.*
    setup: Sequence[str] = ()  # further lines before the work starts
    lines: Sequence[str] = ()  # the work itself, where it is neither workers nor one process
    environment: Mapping[str, str] = field(default_factory=dict)


def render_script(job: Job, launcher: SlurmConfig, python: str, code: Path) -> str:
    """The whole sbatch file."""
    parts = [
        "#!/bin/bash",
        f"# {job.title}",
        f"# Written by extes; edit it and `sbatch {job.name}.sbatch` by hand if you like.",
        *(f"#SBATCH {option}" for option in sbatch_options(job, launcher)),
        "",
        *run_lines(job, python, code),
        "",
        *site_lines(job, launcher),
        "",
    ]
    if job.lines:
        parts += list(job.lines)
    elif job.workers:
        alone = job.nodes * job.processes_per_node == 1
        parts += [] if alone else [*rendezvous_lines(launcher), ""]
        parts += [*worker_lines(job, launcher), "", *verdict_lines(job, launcher)]
    else:
        parts += plain_lines(job, launcher)
    return "\n".join(parts) + "\n"


def sbatch_options(job: Job, launcher: SlurmConfig) -> list[str]:
    """The #SBATCH lines; `launcher.sbatch_options` come last and win."""
    log = "slurm-%A_%a.out" if job.array else "slurm-%j.out"
    options = [f"--job-name=extes-{job.directory.name}"]
    options += [f"--{key}={value}" for key in ("partition", "account", "qos") if (value := getattr(launcher, key))]
    options += [f"--nodes={job.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus_per_node(job, launcher)}"]
    if job.gpus_per_node:
        kind = f"{launcher.gpu_type}:" if launcher.gpu_type else ""
        request = "gres=gpu:" if launcher.gpu_request == "gres" else "gpus-per-node="
        options += [f"--{request}{kind}{job.gpus_per_node}"]
    options += [f"--mem={launcher.memory}"] if launcher.memory else []
    options += [f"--time={job.time_limit}"]
    options += [f"--signal={launcher.signal}@{launcher.signal_margin_s}"] if job.signal else []
    options += ["--requeue" if job.requeue else "--no-requeue"]
    options += ["--open-mode=append", f"--output={job.directory}/logs/{log}"]
    return options + list(launcher.sbatch_options)


def cpus_per_node(job: Job, launcher: SlurmConfig) -> int:
    """CPUs of the one task per node: what was asked for, else one per process."""
    return launcher.cpus_per_task or job.processes_per_node


def threads_per_process(job: Job, launcher: SlurmConfig) -> int:
    """OpenMP threads, fixed in the file so that a requeue on another node adds in the same order."""
    return max(1, cpus_per_node(job, launcher) // job.processes_per_node)


def run_lines(job: Job, python: str, code: Path) -> list[str]:
    """Where the run is, its code and its overrides."""
    quoted = shlex.quote
    lines = [f"export python={quoted(python)}"]
    if job.array:
        arms = quoted(f"{job.directory}/slurm/arms")
        lines += [
            f"arm={arms}/$SLURM_ARRAY_TASK_ID",
            'export run="$(cat "$arm.run_dir")"',
            'overrides_file="$arm.overrides"',
            'mkdir -p "$run/logs"  # each arm\'s log goes beside its run',
            'exec >> "$run/logs/slurm-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.out" 2>&1',
        ]
    else:
        lines += [f"export run={quoted(str(job.directory))}"]
        lines += ['overrides_file="$run/slurm/overrides.txt"'] if job.workers else []
    return [
        *lines,
        f"cd {quoted(str(code))} || exit 1  # the code as it was submitted",
        'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"',
    ]


def site_lines(job: Job, launcher: SlurmConfig) -> list[str]:
    """Modules, set-up lines and variables."""
    variables = {
        "OMP_NUM_THREADS": str(threads_per_process(job, launcher)),
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        **({} if job.gpus_per_node else {"MALLOC_MMAP_THRESHOLD_": GIVE_BACK_THRESHOLD}),
        **launcher.network,
        **launcher.environment,
        **job.environment,
    }
    lines = [f"module load {shlex.quote(module)}" for module in launcher.modules]
    lines += list(launcher.setup)
    lines += [f"export {key}={shlex.quote(str(value))}" for key, value in variables.items()]
    return lines + list(job.setup)


def rendezvous_lines(launcher: SlurmConfig) -> list[str]:
    """MASTER_ADDR is the first node: by name, else by Slurm's NodeAddr, else the job fails."""
    first, count = PORTS
    port = launcher.master_port or f"$(({first} + SLURM_JOB_ID % {count}))"
    return [
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export MASTER_ADDR=$head",
        'if ! getent ahosts "$MASTER_ADDR" > /dev/null; then  # no such host: the address that Slurm itself uses',
        '  MASTER_ADDR=$(scontrol show node --oneliner "$head" | sed -n "s/.* NodeAddr=\\([^ ]*\\).*/\\1/p")',
        "fi",
        'if ! getent ahosts "$MASTER_ADDR" > /dev/null; then',
        '  echo "extes: the first node, $head, has no address that resolves" >&2',
        "  exit 1",
        "fi",
        f"export MASTER_PORT={port}",
    ]


def worker_lines(job: Job, launcher: SlurmConfig) -> list[str]:
    """One task per node, which starts that node's ranks."""
    options = ["--nodes=$SLURM_JOB_NUM_NODES", "--ntasks=$SLURM_JOB_NUM_NODES", "--ntasks-per-node=1"]
    options += [f"--cpus-per-task={cpus_per_node(job, launcher)}", "--kill-on-bad-exit=1", "--export=ALL"]
    if launcher.container == "pyxis":
        options += [f"--container-image={shlex.quote(container_image(launcher))}"]
        options += [shlex.quote(argument) for argument in launcher.container_arguments]
    options += [shlex.quote(option) for option in launcher.srun_options]
    prefix = "" if launcher.container == "pyxis" else container_prefix(launcher, job.gpus_per_node)
    return [
        *overrides_lines(job),
        "trap : USR1 USR2  # for the workers; this shell waits for them",
        '"$python" -m launch.slurm.verdict begin "$run" || exit 1',
        f"srun {' '.join(options)} \\",
        f"  {prefix}bash -c '",
        '    export EXTES_EXIT_RECORDS="$run/logs/exit/node-$SLURM_NODEID" EXTES_RANK_LOGS="$run/logs"',
        f'    exec "$python" -m launch.slurm.node {job.processes_per_node} {job.module} "$@"\' '
        'node "${overrides[@]}"',
        "code=$?",
    ]


def overrides_lines(job: Job) -> list[str]:
    """The shell array `overrides`; an arm whose budget is the first arm's cost gets that too."""
    lines = ['mapfile -t overrides < "$overrides_file"']
    if job.array:
        lines += [
            'if [ -f "$arm.budget" ]; then  # as much as the first arm used',
            '  mapfile -t -O "${#overrides[@]}" overrides < <("$python" -m launch.slurm.budget "$arm.budget")',
            "fi",
        ]
    return lines


def plain_lines(job: Job, launcher: SlurmConfig) -> list[str]:
    """One process, without ranks."""
    prefix = container_prefix(launcher, job.gpus_per_node)
    if launcher.container == "pyxis":
        words = [f"--container-image={container_image(launcher)}", *launcher.container_arguments]
        prefix = " ".join(["srun", "--ntasks=1", *map(shlex.quote, words)]) + " "
    return [" ".join([f'{prefix}"$python" -m {job.module}', *map(shlex.quote, job.arguments)])]


def verdict_lines(job: Job, launcher: SlurmConfig) -> list[str]:
    """75 (checkpointed) becomes a requeue; everything else is the job's exit code."""
    limit = launcher.max_requeues if job.requeue else 0
    return [
        f'"$python" -m launch.slurm.verdict end "$run" "$code" --max-requeues={limit}',
        "code=$?",
        'if [ "$code" = 75 ] && ' + ("true" if limit else "false") + "; then",
        '  scontrol requeue "$SLURM_JOB_ID" && sleep 120  # Slurm ends this shell while it waits',
        "fi",
        'exit "$code"',
    ]


def container_image(launcher: SlurmConfig) -> str:
    """The image; needed where a container is asked for."""
    if not launcher.container_image:
        raise ConfigError(f"launcher.container_image: needed with launcher.container={launcher.container}")
    return launcher.container_image


def container_prefix(launcher: SlurmConfig, gpus: int) -> str:
    """What runs a command inside apptainer, or nothing."""
    if launcher.container != "apptainer":
        return ""
    words = ["apptainer", "exec", *(["--nv"] if gpus else []), *launcher.container_arguments]
    return " ".join(map(shlex.quote, [*words, container_image(launcher)])) + " "
