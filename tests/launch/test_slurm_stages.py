"""Comparisons and generation on a real Slurm: arrays, dependent jobs, and only what is missing."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster.cluster import SlurmCluster, missing
from training.tiny import write_dialogue_file, write_tiny_model

from extes_train.dialogue.jsonl import read_dialogues
from launch.main import main
from launch.slurm import commands

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes, for the tests of this file."""
    base = Path(tempfile.mkdtemp(prefix="extes-slurm-"))
    with pytest.MonkeyPatch.context() as patch, SlurmCluster(base) as running:
        patch.setenv("SLURM_CONF", str(running.conf))
        yield running
    shutil.rmtree(base, ignore_errors=True)


def wait_for_jobs(directory: Path, timeout_s: float = 280.0) -> None:
    """Until none of the directory's jobs is queued."""
    ids = json.loads((directory / "slurm" / "jobs.json").read_text())["job_ids"]
    end = time.monotonic() + timeout_s
    while any(job.split("_")[0] in ids for job in commands.queued_jobs()):
        if time.monotonic() > end:
            logs = "\n".join(f"{path}:\n{path.read_text()[-2000:]}" for path in sorted(directory.glob("**/logs/*.*")))
            pytest.fail(f"not done within {timeout_s} s: {commands.queued_jobs()}\n{logs}")
        time.sleep(0.3)


def test_four_arms_end_with_a_report_and_only_what_is_missing_is_submitted_again(
    cluster: SlurmCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dialogue_file(tmp_path / "dialogues.jsonl")
    write_tiny_model(tmp_path / "dialogues.jsonl", tmp_path / "model")
    out = tmp_path / "compare"
    words = [
        f"data.train={tmp_path}/dialogues.jsonl", f"model.path={tmp_path}/model", "data.taxonomy=any",
        "data.leak_check=false", "data.valid_fraction=0.2", "tokens.tokens_per_row=256", "tracker=none", "zero=zero0",
        "optim.dialogues_per_step=4", "optim.max_steps=4", "evaluation.num_responses=2", "evaluation.max_new_tokens=4",
        f"compare.out={out}", "launcher=slurm", "launcher.time_limit=30", "launcher.signal_margin_s=60",
        "launcher.array_concurrency=2", "launcher.preflight=false",
    ]  # fmt: skip
    # one arm cannot be trained: what hides in its run directory is another run
    broken = out / "arms" / "lora-dri"
    broken.mkdir(parents=True)
    (broken / "metrics.jsonl").write_text('{"step": 1}\n')

    assert main(["compare", *words]) == 0
    shown = capsys.readouterr().out
    assert "train: job" in shown and "full, lora, full-dri, lora-dri" in shown
    wait_for_jobs(out)
    states = {arm["name"]: arm["state"] for arm in json.loads((out / "compare.json").read_text())["arms"]}
    assert states == {"full": "finished", "lora": "finished", "full-dri": "finished", "lora-dri": "failed"}
    results = json.loads((out / "results.json").read_text())
    finished = {arm["name"]: arm["metrics"]["perplexity"] for arm in results["arms"] if arm["state"] == "finished"}
    assert len(finished) == 3 and (out / "report.html").is_file()
    assert main(["status", str(out)]) == 0
    assert "holds metrics, checkpoints or a model but no config.yaml" in capsys.readouterr().out

    (broken / "metrics.jsonl").unlink()
    assert main(["compare", *words]) == 0
    again = capsys.readouterr().out
    assert "full-dri" not in again and "lora-dri" in again
    wait_for_jobs(out)
    results = json.loads((out / "results.json").read_text())
    now = {arm["name"]: arm["metrics"]["perplexity"] for arm in results["arms"]}
    assert set(now) == {"full", "lora", "full-dri", "lora-dri"}
    assert {name: now[name] for name in finished} == finished


def test_generation_with_a_teacher_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    out = tmp_path / "generated"
    words = [
        "launcher=slurm", "launcher.time_limit=30", "launcher.signal_margin_s=60", "teacher=vllm",
        "teacher.model=offline-teacher", f"generate.out={out}", "generate.num_dialogues=20", "launcher.array_size=2",
        "launcher.teacher_gpus=0", "launcher.teacher_time_limit=30",
        "launcher.teacher_command='{python} -m launch teacher serve.host=0.0.0.0 serve.port={port} "
        "serve.api_key=VLLM_API_KEY'",
    ]  # fmt: skip
    assert main(["generate", *words]) == 0
    wait_for_jobs(out)  # the teacher too is ended
    assert (out / "slurm" / "teacher.key").stat().st_mode & 0o077 == 0
    shards = [len(read_dialogues(out / "shards" / str(index) / "dialogues.jsonl")) for index in range(2)]
    assert sum(shards) >= 20 and min(shards) > 0
    assert 0 < len(read_dialogues(out / "dialogues.jsonl")) <= sum(shards)
    assert not (out / "slurm" / "teacher.url").exists()


def test_shards_that_are_preempted_write_the_same(cluster: SlurmCluster, tmp_path: Path) -> None:
    words = ["teacher=offline", "generate.num_dialogues=40"]
    # two candidates a second: long enough to be met in the middle
    slurm = [
        "teacher.requests_per_minute=120",
        "launcher=slurm",
        "launcher.partition=low",
        "launcher.time_limit=30",
        "launcher.signal_margin_s=60",
    ]
    out = tmp_path / "generated"
    assert main(["generate", *words, *slurm, f"generate.out={out}", "launcher.array_size=2"]) == 0
    jobs = json.loads((out / "slurm" / "jobs.json").read_text())
    journals = [out / "shards" / str(index) / "journal.jsonl" for index in range(2)]
    end = time.monotonic() + 60
    while not all(path.is_file() and path.read_bytes().count(b"\n") > 3 for path in journals):
        assert time.monotonic() < end, "no candidate within 60 s"
        time.sleep(0.1)
    tasks = [state for job, state in commands.queued_jobs().items() if job.split("_")[0] == jobs["generate"]]
    assert [task.state for task in tasks] == ["RUNNING"] * 2
    cluster.preempt()
    wait_for_jobs(out)
    for index, journal in enumerate(journals):
        attempts = [json.loads(line) for line in (journal.parent / "logs" / "attempts.jsonl").read_text().splitlines()]
        assert [attempt["event"] for attempt in attempts].count("begin") == 2 and attempts[-1]["code"] == 0
        assert "the journal says where to go on" in (journal.parent / "logs" / "rank-0.log").read_text()
        alone = tmp_path / f"alone-{index}"
        assert main(["generate", *words, f"generate.out={alone}", f"generate.shard={index}/2"]) == 0
        assert (journal.parent / "dialogues.jsonl").read_bytes() == (alone / "dialogues.jsonl").read_bytes()
    assert len(read_dialogues(out / "dialogues.jsonl")) > 0
