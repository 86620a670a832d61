"""The rendered sbatch text, the verdict over an attempt, and the checks against a cluster's description."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from extes_train.composition import compose
from extes_train.errors import ConfigError, LaunchError
from launch.composing import compose_request
from launch.config import SlurmConfig
from launch.launchers.slurm import processes, training_job
from launch.slurm import freeze
from launch.slurm.cluster import Cluster, check_request, format_time, parse_node, parse_partition, parse_time
from launch.slurm.commands import key_values
from launch.slurm.script import Job, render_script
from launch.slurm.verdict import judge_attempt

RUN = Path("/scratch/run")


def rendered(launcher: SlurmConfig, **changes: object) -> str:
    return render_script(replace(training_job(launcher, RUN), **changes), launcher, "/py", RUN / "slurm/code")


def options(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_header_of_a_training_on_two_gpu_nodes() -> None:
    launcher = SlurmConfig(
        nodes=2, gpus_per_node=4, gpu_type="a100", cpus_per_task=32, partition="gpu", account="lab", memory="200G",
        time_limit="12:00:00", sbatch_options=["--exclude=node7"],
    )  # fmt: skip
    assert options(rendered(launcher)) == [
        "--job-name=extes-run", "--partition=gpu", "--account=lab", "--nodes=2", "--ntasks-per-node=1",
        "--cpus-per-task=32", "--gpus-per-node=a100:4", "--mem=200G", "--time=12:00:00", "--signal=USR2@300",
        "--requeue", "--open-mode=append", "--output=/scratch/run/logs/slurm-%j.out", "--exclude=node7",
    ]  # fmt: skip
    assert processes(launcher) == 8
    text = rendered(launcher)
    assert "-m launch.slurm.node 4 extes_train.train" in text and "export OMP_NUM_THREADS=8" in text
    assert "--gres=gpu:a100:4" in options(rendered(replace(launcher, gpu_request="gres")))


def test_site_lines_come_before_the_work_and_are_quoted() -> None:
    launcher = SlurmConfig(
        modules=["cuda/12.4"], setup=["source ~/env.sh"], network={"NCCL_SOCKET_IFNAME": "^lo,docker"},
        environment={"NOTE": "it's two words"}, srun_options=["--cpu-bind=none"],
    )  # fmt: skip
    text = rendered(launcher)
    for line in ("module load cuda/12.4", "source ~/env.sh", "export NCCL_SOCKET_IFNAME='^lo,docker'"):
        assert text.index(line) < text.index("srun ")
    assert f"export NOTE={shlex.quote('it' + chr(39) + 's two words')}" in text
    assert "--cpu-bind=none" in text


def test_containers() -> None:
    apptainer = SlurmConfig(container="apptainer", container_image="/i.sif", gpus_per_node=1)
    assert "apptainer exec --nv /i.sif bash -c" in rendered(apptainer)
    pyxis = SlurmConfig(container="pyxis", container_image="nvcr.io#x", container_arguments=["--container-mounts=/d"])
    assert "--container-image='nvcr.io#x' --container-mounts=/d" in rendered(pyxis)
    with pytest.raises(ConfigError, match=r"launcher\.container_image"):
        rendered(SlurmConfig(container="pyxis"))


def test_where_ranks_meet() -> None:
    assert "export MASTER_PORT=$((15000 + SLURM_JOB_ID % 15000))" in rendered(SlurmConfig(nodes=2))
    assert "export MASTER_PORT=29501\n" in rendered(SlurmConfig(nodes=2, master_port=29501))
    assert "MASTER_ADDR" not in rendered(SlurmConfig())  # a single rank meets nobody


def test_no_requeue_where_it_is_switched_off() -> None:
    text = rendered(SlurmConfig(requeue=False))
    assert "--no-requeue" in options(text) and "--max-requeues=0" in text and "&& false; then" in text


@pytest.mark.parametrize("array", [False, True])
def test_text_is_valid_bash(array: bool, tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text(rendered(SlurmConfig(), array=array))
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


def test_a_plain_job_runs_one_process() -> None:
    job = Job("Report.", "report", RUN, "launch.slurm.report", ["/a b"], workers=False)
    text = render_script(job, SlurmConfig(), "/py", Path("/code"))
    assert text.rstrip().endswith("\"$python\" -m launch.slurm.report '/a b'")
    assert "srun" not in text


def test_frozen_overrides_are_one_a_line(tmp_path: Path) -> None:
    freeze.freeze_overrides(tmp_path / "o", ["seed=1", "data.train='/a b'"])
    assert (tmp_path / "o").read_text() == "seed=1\ndata.train='/a b'\n"
    with pytest.raises(LaunchError, match="line break"):
        freeze.freeze_overrides(tmp_path / "o", ["tokens.system='a\nb'"])


@pytest.mark.parametrize("profile", ["infiniband", "ethernet", "debug"])
def test_network_profiles_reach_the_script_and_not_the_worker(profile: str) -> None:
    words = ["launcher=slurm", f"network={profile}"]
    launcher = compose_request(words).config.launcher
    assert isinstance(launcher, SlurmConfig) and launcher.network
    assert all(f"export {key}=" in rendered(launcher) for key in launcher.network)
    assert compose(words).tuning.name == "full"


HAND_WRITTEN = ["train", "train_nodes", "compare_array", "compare_report", "teacher", "generate_array"]


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_the_files_by_hand_are_valid_bash_with_known_options(name: str, root: Path) -> None:
    script = root / "slurm" / f"{name}.sbatch"
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    text = script.read_text()
    assert "<--" in text and "#SBATCH --time=" in text
    if "--signal" in text:  # who is signalled must be able to ask for a requeue
        assert 'scontrol requeue "$SLURM_JOB_ID"' in text and "--open-mode=append" in text


# ---------------------------------------------------------------------------------------------------- the verdict


def record(run: Path, rank: int, code: int, time: float, text: str = "") -> None:
    path = run / "logs" / "exit" / "node-0" / f"rank-{rank}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rank": rank, "code": code, "traceback": text, "host": "n", "time": time}))


def ended(step: int) -> dict[str, object]:
    return {"event": "end", "step": step}


def test_a_checkpoint_is_requeued(tmp_path: Path) -> None:
    record(tmp_path, 0, 75, 1.0)
    assert judge_attempt(tmp_path, 0, [], 3).code == 75
    assert judge_attempt(tmp_path, 0, [], 0).code == 75  # the script does not requeue, the code still says so


def test_the_first_failure_wins_over_the_checkpoint_of_its_siblings(tmp_path: Path) -> None:
    record(tmp_path, 1, 1, 1.0, "Traceback …\nValueError: bad")
    record(tmp_path, 0, 75, 2.0)
    (tmp_path / "requeue").touch()
    verdict = judge_attempt(tmp_path, 1, [], 3)
    assert verdict.code == 1 and "rank 1 on n" in verdict.text and verdict.text.endswith("ValueError: bad")


def test_a_lost_peer_is_requeued_and_a_second_time_at_the_same_step_is_the_end(tmp_path: Path) -> None:
    record(tmp_path, 0, 1, 1.0, "RuntimeError: Connection closed by peer [10.0.0.1]:333")
    assert judge_attempt(tmp_path, 137, [], 3).code == 75
    assert judge_attempt(tmp_path, 137, [ended(0)], 3).code == 1
    (tmp_path / "checkpoints" / "step-4").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-4" / "COMPLETED").touch()
    assert judge_attempt(tmp_path, 137, [ended(0)], 3).code == 75


def test_requeues_are_bounded(tmp_path: Path) -> None:
    record(tmp_path, 0, 75, 1.0)
    (tmp_path / "checkpoints" / "step-9").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-9" / "COMPLETED").touch()
    verdict = judge_attempt(tmp_path, 0, [ended(3), ended(6)], 2)
    assert "launcher.max_requeues=2" in verdict.text
    assert "without a step" in judge_attempt(tmp_path, 0, [ended(9), ended(9)], 10).text


def test_a_users_error_keeps_its_code(tmp_path: Path) -> None:
    record(tmp_path, 0, 2, 1.0, "data.train: line 3")
    assert judge_attempt(tmp_path, 2, [], 3).code == 2


# ---------------------------------------------------------------------------------------------------- the cluster

PARTITIONS = [
    "PartitionName=gpu Default=YES MaxNodes=UNLIMITED MaxTime=2-00:00:00 State=UP",
    "PartitionName=short Default=NO MaxNodes=1 MaxTime=01:00:00 State=UP",
    "PartitionName=old Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=DOWN",
]
NODES = [
    "NodeName=n1 CPUTot=64 RealMemory=500000 Gres=gpu:a100:4(S:0-1) State=IDLE Partitions=gpu,short,old",
    "NodeName=n2 CPUTot=64 RealMemory=500000 Gres=gpu:a100:4(S:0-1) State=IDLE Partitions=gpu,short,old",
    "NodeName=n3 CPUTot=64 RealMemory=500000 Gres=gpu:a100:4 State=DOWN+DRAIN Partitions=gpu Reason=bad fan",
]
CLUSTER = Cluster(tuple(map(parse_partition, PARTITIONS)), tuple(map(parse_node, NODES)))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"partition": "gpux"}, r'launcher\.partition=gpux: no such partition \(did you mean "gpu"\?\)'),
        ({"partition": "old"}, "is not up; choose from gpu, short"),
        ({"time_limit": "3-00:00:00"}, "allows 2-00:00:00; set launcher.time_limit=2-00:00:00"),
        ({"partition": "short", "nodes": 2, "time_limit": "30"}, "partition short allows 1"),
        ({"nodes": 9}, "partition gpu has 3; set launcher.nodes=3"),
        ({"nodes": 3}, "only 2 of gpu's 3 nodes are up"),
        ({"gpus_per_node": 8}, "gpus_per_node=8: partition gpu has 0 such nodes.*offers is 4"),
        ({"gpus_per_node": 1, "gpu_type": "h100"}, "launcher.gpu_type=h100: gpu has a100"),
        ({"memory": "900G"}, "memory=900G"),
        ({"cpus_per_task": 65}, "cpus_per_task=65"),
        ({"time_limit": "5", "signal_margin_s": 300}, "signal_margin_s=300: must be less than"),
    ],
)
def test_impossible_requests_are_named(change: dict[str, object], problem: str) -> None:
    launcher = replace(SlurmConfig(), **change)
    (found,) = check_request(launcher, CLUSTER)
    import re

    assert re.search(problem, found), found


def test_a_possible_request_passes() -> None:
    assert check_request(SlurmConfig(nodes=2, gpus_per_node=4, gpu_type="a100", memory="400G"), CLUSTER) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("01:00:00", 3600), ("2-00", 172800), ("1-12:30", 131400), ("UNLIMITED", None)],
)
def test_times(text: str, seconds: int | None) -> None:
    assert parse_time(text) == seconds
    if seconds is not None:
        assert parse_time(format_time(seconds)) == seconds


def test_a_wrong_time_says_how_to_write_it() -> None:
    with pytest.raises(LaunchError, match="12:00:00"):
        parse_time("two days")


def test_scontrol_lines() -> None:
    facts = key_values("JobId=7 JobName=a=b TRES=cpu=16,node=2 Reason=None")
    assert facts["JobId"] == "7" and facts["TRES"] == "cpu=16,node=2"
