"""Training on a real Slurm of two nodes: the same losses as on one, also after every way a job can be taken away."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import slurm_cluster.cluster
from slurm_cluster.cluster import SlurmCluster, missing
from training.tiny import metrics, weights, write_dialogue_file, write_tiny_model

from launch.config import SlurmConfig
from launch.launchers.slurm import training_job
from launch.main import main
from launch.run_state import read_slurm_job
from launch.slurm import commands
from launch.slurm.submit import submit_job

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

STEPS = 160


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes, for the tests of this file."""
    base = Path(tempfile.mkdtemp(prefix="extes-slurm-"))
    with pytest.MonkeyPatch.context() as patch, SlurmCluster(base) as running:
        patch.setenv("SLURM_CONF", str(running.conf))
        yield running
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run on two nodes with two processes each."""
    folder = tmp_path_factory.mktemp("slurm")
    write_dialogue_file(folder / "dialogues.jsonl")
    write_tiny_model(folder / "dialogues.jsonl", folder / "model")
    return [
        f"data.train={folder}/dialogues.jsonl", f"model.path={folder}/model", "data.taxonomy=any",
        "data.leak_check=false", "data.valid_fraction=0.2", "tokens.tokens_per_row=256", "tracker=none", "zero=zero2",
        "optim.dialogues_per_step=8", f"optim.max_steps={STEPS}", "launcher=slurm", "launcher.partition=low",
        "launcher.nodes=2", "launcher.processes_per_node=2", "launcher.time_limit=30", "launcher.signal_margin_s=60",
        f"tokens.cache_dir={folder}/cache",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(cluster: SlurmCluster, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the others are held against."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(["train", *words, f"run_dir={run}"]) == 0
    finish(run)
    return run


def job_of(run: Path) -> str:
    job = read_slurm_job(run)
    assert job is not None
    return str(job["job_id"])


def until(condition: Callable[[], object], what: str, run: Path, timeout_s: float = 150.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in sorted((run / "logs").glob("*.*")))
            pytest.fail(f"{what}: not within {timeout_s} s; {commands.job_states([job_of(run)])}\n{logs}")
        time.sleep(0.2)


def finish(run: Path) -> None:
    """Wait for the end of the run's job; it must be a good one."""
    until(lambda: not state(run).active, "the end of the job", run)
    log = Path(str((read_slurm_job(run) or {})["log"]))
    assert state(run).state == "COMPLETED", log.read_text()[-3000:]


def state(run: Path) -> commands.JobState:
    return commands.job_states([job_of(run)])[job_of(run)]


def step(run: Path) -> int:
    return int(metrics(run)[-1]["step"]) if (run / "metrics.jsonl").is_file() and metrics(run) else 0


def starts(run: Path) -> int:
    path = run / "logs" / "attempts.jsonl"
    return path.read_text().count('"event": "begin"') if path.is_file() else 0


def going_on(run: Path, number: int, reached: int, name: str) -> None:
    """Wait until start `number` has come to step `reached`."""
    until(lambda: starts(run) == number and step(run) >= reached, f"start {number}, step {reached} for: {name}", run)


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics(run)]


def test_two_nodes_learn_what_one_does(undisturbed: Path, words: list[str], tmp_path: Path) -> None:
    assert main(["train", *words, f"run_dir={tmp_path}/one", "launcher.nodes=1", "launcher.processes_per_node=4"]) == 0
    finish(tmp_path / "one")
    assert losses(tmp_path / "one") == losses(undisturbed)
    assert len(losses(undisturbed)) == STEPS


def test_a_run_survives_everything_and_ends_the_same(
    undisturbed: Path, words: list[str], tmp_path: Path, cluster: SlurmCluster
) -> None:
    run = tmp_path / "run"
    assert main(["train", *words, f"run_dir={run}"]) == 0
    job = job_of(run)

    def node_fails() -> None:
        cluster.stop_node("node2")
        cluster.command("scontrol", "update", "nodename=node2", "state=down", "reason=test")
        time.sleep(1)
        cluster.start_node("node2")
        cluster.resume_node("node2")

    def time_runs_out() -> None:
        cluster.signal_job(job, signal.SIGSTOP)  # the controller looks at limits every 30 s: do not finish before
        minutes, seconds = map(int, cluster.command("squeue", "-h", "-j", job, "-o", "%M").strip().split(":"))
        elapsed = 60 * minutes + seconds
        limit = -(-(elapsed + 40) // 60)  # minutes; at least 40 s are left, so that nobody is killed while stopped
        cluster.command("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        time.sleep(32 + max(0, 60 * limit - elapsed - 60))  # the signal is due 60 s before the limit
        cluster.wake_job(job)

    disturbances: list[tuple[str, Callable[[], object]]] = [
        ("scancel --signal", lambda: cluster.command("scancel", "--signal=USR2", job)),
        ("scontrol requeue", lambda: cluster.command("scontrol", "requeue", job)),
        ("preemption", cluster.preempt),
        ("node failure", node_fails),
        ("time limit", time_runs_out),
    ]
    for number, (name, act) in enumerate(disturbances, 1):
        going_on(run, number, step(run) + 3, name)
        act()
        going_on(run, number + 1, 0, name)
    cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    finish(run)
    assert losses(run) == losses(undisturbed)
    first, second = weights(run), weights(undisturbed)
    assert all((first[name] == second[name]).all() for name in second)


def test_a_failing_rank_is_the_last_thing_in_the_log(cluster: SlurmCluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    submit_standin(run, "steps=100", "fail=1")
    until(lambda: step(run) >= 2, "the step that fails", run)
    failed = time.monotonic()
    until(lambda: not state(run).active, "the failure", run)
    assert time.monotonic() - failed < 10
    assert state(run).exit_code == "1:0"
    log = Path(str((read_slurm_job(run) or {})["log"])).read_text()
    assert "rank 1 on " in log and log.rstrip().endswith("ValueError: rank 1 does not like step 2")


def test_a_killed_worker_is_started_again(cluster: SlurmCluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    submit_standin(run, "steps=40")
    until(lambda: step(run) >= 2, "two steps", run)
    cluster.signal_job(job_of(run), signal.SIGKILL, rank=3)
    finish(run)
    assert starts(run) == 2 and step(run) == 40


def submit_standin(run: Path, *words: str) -> None:
    """A job on both nodes whose workers only count."""
    folder = Path(slurm_cluster.cluster.__file__).parent
    launcher = SlurmConfig(
        nodes=2, processes_per_node=2, partition="low", time_limit="10",
        setup=[f"export PYTHONPATH=$PYTHONPATH:{folder}"],
    )  # fmt: skip
    submit_job(replace(training_job(launcher, run), module="standin"), launcher, [f"run={run}", *words])


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("launcher.partition=hihg", 'no such partition (did you mean "high"?)'),
        ("launcher.nodes=5", "partition low has 2; set launcher.nodes=2"),
        ("launcher.time_limit=2:00:00", "allows 01:00:00; set launcher.time_limit=01:00:00"),
        ("model.path=/nowhere", "model.path=/nowhere: no such folder"),
        ("launcher.memory=7G", "the smallest change that fits: model.dtype=bf16"),
        ("launcher.gpus_per_node=9", "launcher.gpus_per_node=9"),
    ],
)
def test_impossible_launches_are_refused_before_sbatch(
    cluster: SlurmCluster, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, problem: str
) -> None:
    key = word.partition("=")[0]
    kept = [given for given in words if not given.startswith(f"{key}=")]
    if key == "launcher.memory":
        kept += larger_model(kept, tmp_path)
    assert main(["train", *kept, word, f"run_dir={tmp_path}/run"]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "run" / "slurm").exists()
    assert cluster.command("squeue", "-h").strip() == ""


def larger_model(words: list[str], folder: Path) -> list[str]:
    """The same with 300 M random weights."""
    tiny = next(word.partition("=")[2] for word in words if word.startswith("model.path="))
    shape = json.loads((Path(tiny) / "config.json").read_text())
    shape |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 18, "head_dim": 512}
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(shape))
    return [f"model.path={folder}/model", f"model.tokenizer={tiny}", "model.random_weights=true"]


def test_cancel_status_and_logs(
    cluster: SlurmCluster, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", *words, f"run_dir={run}"]) == 0
    until(lambda: step(run) > 0, "the first step", run)
    assert main(["train", *words, f"run_dir={run}"]) == 2  # two jobs must not write to one directory
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "is running for it" in shown.err
    line = next(line for line in shown.out.splitlines() if line.startswith("run "))
    assert "running" in shown.out and f"/{STEPS}" in shown.out, line
    assert main(["cancel", str(run)]) == 0
    until(lambda: not state(run).active, "the end after cancel", run)
    assert main(["logs", str(run)]) == 0
    assert f"job {job_of(run)} cancelled" in (out := capsys.readouterr().out) and "rank-0.log" in out
