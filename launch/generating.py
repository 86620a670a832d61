"""`extes generate launcher=slurm`: a teacher job if one is needed, an array of shards, and a job that joins them."""

from __future__ import annotations

import secrets
from pathlib import Path

from extes_train.dialogue.files import write_json, write_text
from extes_train.errors import EXIT_OK, ConfigError
from launch.composing import Request, override
from launch.config import RootConfig, SlurmConfig
from launch.launchers.slurm import interpreter
from launch.slurm import commands
from launch.slurm.cluster import check_request, read_cluster
from launch.slurm.freeze import freeze_code, freeze_overrides
from launch.slurm.script import Job, render_script
from launch.slurm.submit import record_job, write_script


def submit_generation(request: Request) -> int:
    """Submit the generation; a shard that was stopped goes on from its journal when this is called again."""
    config, launcher = request.config, request.config.launcher
    assert isinstance(launcher, SlurmConfig)
    out = Path(config.generate.out).resolve()
    starts_teacher = needs_teacher_job(request)
    if starts_teacher and not config.teacher.model:
        raise ConfigError("teacher.model: needs the model that the teacher job serves: a folder or a hub id")
    jobs = generation_jobs(config, launcher, out, starts_teacher)
    if launcher.dry_run:
        for job in jobs:
            print(render_script(job, launcher, interpreter(launcher), out / "slurm" / "code"))
        return EXIT_OK
    if launcher.preflight:
        from launch.data import check_teacher
        from launch.preflight import refuse

        if not starts_teacher:
            check_teacher(config)
        refuse(check_request(launcher, read_cluster()))
    write_shards(request, out, launcher.array_size, starts_teacher)
    code = freeze_code(out)
    scripts = {job.name: write_script(job, launcher, code) for job in jobs}
    ids: dict[str, str] = {}
    if starts_teacher:
        write_key(out)
        ids["teacher"] = commands.submit(scripts["teacher"])
        write_text(out / "slurm" / "teacher.job", ids["teacher"] + "\n")
    after = f"after:{ids['teacher']}" if starts_teacher else None
    ids["generate"] = commands.submit(scripts["generate"], after, f"0-{launcher.array_size - 1}")
    ids["merge"] = commands.submit(scripts["merge"], f"afterany:{ids['generate']}")
    write_json(out / "slurm" / "jobs.json", {**ids, "job_ids": list(ids.values())})
    record_job(out, ids["merge"], out / "logs" / f"slurm-{ids['merge']}.out", "merge")
    for name, job_id in ids.items():
        print(f"{name}: job {job_id}")
    print(f"  extes logs {out} -f\n  extes cancel {out}")
    if launcher.follow:
        from launch.runs import follow

        return follow(out)
    return EXIT_OK


def needs_teacher_job(request: Request) -> bool:
    """True for teacher=vllm, unless the user says where one is."""
    given = {word.lstrip("+").partition("=")[0] for word in request.overrides}
    return request.config.teacher.name == "vllm" and not given & {"teacher.base_url", "teacher.url_file"}


def generation_jobs(config: RootConfig, launcher: SlurmConfig, out: Path, starts_teacher: bool) -> list[Job]:
    """The teacher (if any), the shards, and what joins them and ends the teacher."""
    key = [f'export {config.teacher.key_variable}="$(cat {_quoted(out / "slurm" / "teacher.key")})"']
    shards = Job(
        title=f"Generates {config.generate.num_dialogues} dialogues in {launcher.array_size} shards.",
        name="generate",
        directory=out,
        module="launch.slurm.shard",
        time_limit=launcher.time_limit,
        signal=True,
        requeue=launcher.requeue,
        array=True,
        setup=key if starts_teacher else [],
    )
    merge = Job(
        title="Joins the shards and ends the teacher.",
        name="merge",
        directory=out,
        module="launch merge",
        arguments=[*(str(out / "shards" / str(index)) for index in range(launcher.array_size)), "-o", str(out)],
        time_limit="01:00:00",
        workers=False,
        setup=[f'scancel "$(cat {_quoted(out / "slurm" / "teacher.job")})"'] if starts_teacher else [],
    )
    if not starts_teacher:
        return [shards, merge]
    teacher = Job(
        title=f"Serves the teacher {config.teacher.model}, and writes its address to slurm/teacher.url.",
        name="teacher",
        directory=out,
        module="",
        gpus_per_node=launcher.teacher_gpus,
        time_limit=launcher.teacher_time_limit,
        requeue=launcher.requeue,
        workers=False,
        setup=key,
        lines=teacher_lines(config, launcher, out),
    )
    return [teacher, shards, merge]


def teacher_lines(config: RootConfig, launcher: SlurmConfig, out: Path) -> list[str]:
    """Start the server, wait for its health, tell the address, stay until it ends."""
    values = {"python": '"$python"', "model": _quoted(config.teacher.model), "gpus": str(launcher.teacher_gpus)}
    try:
        command = launcher.teacher_command.format(port="$port", **values)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"launcher.teacher_command={launcher.teacher_command!r}: {error}; "
            "it knows {model}, {port}, {gpus} and {python}"
        ) from error
    url = _quoted(out / "slurm" / "teacher.url")
    return [
        "port=$((30000 + SLURM_JOB_ID % 2000))",
        f"url={url}",
        'rm -f "$url"',
        "trap 'rm -f \"$url\"' EXIT",
        f"{command} &",
        "server=$!",
        'trap \'kill "$server"; wait "$server"\' TERM',
        'until curl -sf "http://127.0.0.1:$port/health" > /dev/null 2>&1 ||',
        '  "$python" -c "import urllib.request as r; r.urlopen(\'http://127.0.0.1:$port/health\')" 2> /dev/null; do',
        '  kill -0 "$server" 2> /dev/null || { echo "extes: the teacher ended before it was healthy" >&2; exit 1; }',
        "  sleep 2",
        "done",
        "host=$(hostname)",
        'if ! getent ahosts "$host" > /dev/null; then',
        '  host=$(scontrol show node --oneliner "$SLURMD_NODENAME" | sed -n "s/.* NodeAddr=\\([^ ]*\\).*/\\1/p")',
        "fi",
        'echo "http://$host:$port/v1" > "$url.new" && mv "$url.new" "$url"',
        'echo "extes: the teacher serves at $(cat "$url")"',
        'wait "$server"',
    ]


def write_shards(request: Request, out: Path, shards: int, starts_teacher: bool) -> None:
    """OUT/slurm/arms/INDEX.*: each shard generates for itself, with the local launcher."""
    kept = [word for word in request.overrides if word.lstrip("+~").partition("=")[0].split(".")[0] not in SHARDS_OWN]
    kept = [word for word in kept if word.partition("=")[0] not in ("generate.out", "generate.shard")]
    for index in range(shards):
        folder = out / "shards" / str(index)
        own = ["launcher=local", f"generate.shard={index}/{shards}", override("generate.out", str(folder))]
        if starts_teacher:
            own += ["teacher.base_url=null", override("teacher.url_file", str(out / "slurm" / "teacher.url"))]
        freeze_overrides(out / "slurm" / "arms" / f"{index}.overrides", [*kept, *own])
        write_text(out / "slurm" / "arms" / f"{index}.run_dir", f"{folder}\n")


SHARDS_OWN = ("launcher", "network")


def write_key(out: Path) -> None:
    """A key for a server that other nodes reach: a file that only its owner reads, kept over submissions."""
    path = out / "slurm" / "teacher.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(24))


def _quoted(text: object) -> str:
    import shlex

    return shlex.quote(str(text))
