"""What differs between sites: accounting or none, ways to ask for GPUs, and the sbatch files that people edit."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import slurm_cluster.cluster
from slurm_cluster.cluster import SlurmCluster, missing
from training.tiny import metrics, write_dialogue_file, write_tiny_model

from extes_train.dialogue.files import read_json
from extes_train.dialogue.jsonl import read_dialogues
from launch.config import SlurmConfig
from launch.launchers.slurm import training_job
from launch.main import main
from launch.slurm import commands
from launch.slurm.cluster import check_request, read_cluster
from launch.slurm.submit import submit_job

WHY_NOT = missing(with_accounting=True)
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes with accounting, whose controller forgets a finished job within seconds."""
    base = Path(tempfile.mkdtemp(prefix="extes-slurm-"))
    with pytest.MonkeyPatch.context() as patch, SlurmCluster(base, with_accounting=True) as running:
        patch.setenv("SLURM_CONF", str(running.conf))
        yield running
    shutil.rmtree(base, ignore_errors=True)


def until(condition: Callable[[], object], what: str, folder: Path, timeout_s: float = 150.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            found = [*folder.glob("**/logs/*.*"), *folder.glob("**/*.out")]
            logs = "\n".join(f"{path}:\n{path.read_text()[-2000:]}" for path in sorted(found))
            pytest.fail(f"{what}: not within {timeout_s} s\n{logs}")
        time.sleep(0.2)


def submit_standin(run: Path, launcher: SlurmConfig, *words: str) -> str:
    """A job whose workers only count."""
    folder = Path(slurm_cluster.cluster.__file__).parent
    launcher = replace(launcher, time_limit="10", setup=[f"export PYTHONPATH=$PYTHONPATH:{folder}"])
    return submit_job(replace(training_job(launcher, run), module="standin"), launcher, [f"run={run}", *words])


def shown_states(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], str]:
    """Run -> state as `extes status` shows them, and all it said."""
    capsys.readouterr()
    assert main(["status", str(root)]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()[1:] if not line.startswith(" ")]
    return {row[0]: row[1] for row in rows}, out


def test_states_by_sacct_and_without(
    cluster: SlurmCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {name: tmp_path / "runs" / name for name in ("cancelled", "failed", "finished")}
    jobs = [
        submit_standin(runs["cancelled"], SlurmConfig(), "steps=500"),
        submit_standin(runs["failed"], SlurmConfig(processes_per_node=2), "steps=9", "fail=1"),
        submit_standin(runs["finished"], SlurmConfig(), "steps=3"),
    ]
    until(lambda: (runs["cancelled"] / "metrics.jsonl").is_file(), "a step", runs["cancelled"])
    commands.cancel(jobs[:1])

    def known_to_the_controller() -> list[str]:
        return [job for job in jobs if cluster.command("scontrol", "show", "job", job, check=False).strip()]

    until(lambda: not known_to_the_controller(), "Slurm to forget the jobs", tmp_path)
    expected = {name: name for name in runs}
    found, out = shown_states(tmp_path / "runs", capsys)
    assert found == expected and "ValueError: rank 1 does not like step 2" in out

    # a site without sacct: what Slurm has forgotten, the run's own files tell, but not that a person stopped it
    words = tmp_path / "bin"
    words.mkdir()
    for name in ("squeue", "scontrol", "sbatch"):
        (words / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(words))
    found, out = shown_states(tmp_path / "runs", capsys)
    assert found == {**expected, "cancelled": "requeue"} and "ValueError: rank 1 does not like step 2" in out


def test_both_ways_to_ask_for_gpus(cluster: SlurmCluster, tmp_path: Path) -> None:
    two = SlurmConfig(nodes=2, gpus_per_node=2)
    forms = {"plain": two, "gres": replace(two, gpu_request="gres", gpu_type="a100")}
    for name, launcher in forms.items():
        assert check_request(launcher, read_cluster()) == []
        # long enough for both jobs to be there at the same time
        submit_standin(tmp_path / name, launcher, "steps=40")
    for name in forms:
        until((tmp_path / name / "cost.json").is_file, "the end", tmp_path / name)
    sees = {name: [gpus_of(tmp_path / name, rank) for rank in range(4)] for name in forms}
    told = {("0,1",) * 4, ("2,3",) * 4} if cluster.gpus else {("None",) * 4}  # without devices Slurm only counts
    assert {tuple(found) for found in sees.values()} == told
    (problem,) = check_request(replace(two, gpu_type="h100"), read_cluster())
    assert problem == "launcher.gpu_type=h100: debug has a100"


def gpus_of(run: Path, rank: int) -> str:
    """What this rank found in CUDA_VISIBLE_DEVICES."""
    text = (run / "logs" / f"rank-{rank}.log").read_text()
    return text.partition(f"rank {rank} sees GPUs ")[2].splitlines()[0]


# ------------------------------------------------------------------------------------------- the files in slurm/


def edited(name: str, out: Path, **changes: str) -> Path:
    """slurm/NAME.sbatch as a user edits it: `changes` from the beginning of a line, which must be a marked one."""
    root = Path(__file__).parents[2]
    lines = (root / "slurm" / f"{name}.sbatch").read_text().splitlines()
    site = {
        "#SBATCH --partition=": "#SBATCH --partition=low",
        "#SBATCH --time=": "#SBATCH --time=00:30:00",
        "# source ": f"export PATH={Path(sys.executable).parent}:{out}/bin:$PATH",
    }
    if name not in ("compare_report", "generate_array"):
        site |= {"#SBATCH --cpus-per-task=": "#SBATCH --cpus-per-task=2", "#SBATCH --gpus-per-node=": ""}
    wanted = {**site, **changes}
    for start, new in wanted.items():
        (found,) = [number for number, line in enumerate(lines) if line.lstrip().startswith(start)]
        assert "<--" in lines[found], f"{name}: a user would not know to edit {lines[found]!r}"
        lines[found] = new
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.sbatch").write_text("\n".join(lines) + "\n")
    return out / f"{name}.sbatch"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The lines of `overrides=(…)` that every training needs here."""
    folder = tmp_path_factory.mktemp("tiny")
    write_dialogue_file(folder / "dialogues.jsonl")
    write_tiny_model(folder / "dialogues.jsonl", folder / "model")
    return {
        "data.train=": f"data.train={folder}/dialogues.jsonl data.taxonomy=any data.leak_check=false "
        "data.valid_fraction=0.2 tokens.tokens_per_row=256 tracker=none optim.dialogues_per_step=4",
        "model": f"model.path={folder}/model",
    }


def submit(script: Path, *words: str) -> str:
    return commands.run_command(["sbatch", "--parsable", f"--chdir={script.parent}", *words, str(script)]).strip()


def finished_well(job: str, folder: Path) -> None:
    """Wait for every task of a job; each must be a good one."""

    def states() -> list[str]:
        found = cluster_states(job)
        return [] if any(state in commands.ACTIVE for state in found) else found

    until(states, f"the end of job {job}", folder)
    logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("**/*.out")))
    assert set(states()) == {"COMPLETED"}, logs


def cluster_states(job: str) -> list[str]:
    """The states of a job's tasks: of the queue where it is there, else of sacct."""
    queued = [state.state for key, state in commands.queued_jobs().items() if key.split("_")[0] == job]
    return queued or [state.state for state in commands.finished_jobs([job]).values()]


def test_training_files(cluster: SlurmCluster, tiny: dict[str, str], tmp_path: Path) -> None:
    """train.sbatch and train_nodes.sbatch, both stopped by a signal once; the losses are the same."""
    steps = "optim.max_steps=120"
    for name, first in (("train", "tuning"), ("train_nodes", "zero")):
        out = tmp_path / name
        here = {"processes": "processes=2", "run=": f"run={out}/run", first: f"zero=zero2 {steps}"}
        if name == "train_nodes":
            here = {"export processes": "export processes=1", "export run": f"export run={out}/run", first: here[first]}
        script = edited(name, out, **tiny, **here)
        job = submit(script)
        run = out / "run"
        until(lambda run=run: (run / "metrics.jsonl").is_file() and len(metrics(run)) >= 3, "three steps", out)
        cluster.command("scancel", "--signal=USR2", job)
        finished_well(job, out)
        log = (out / f"slurm-extes-{job}.out").read_text()
        assert log.count("requeued") == 1 and log.rstrip().endswith("finished")
    one, two = ([line["loss"] for line in metrics(tmp_path / name / "run")] for name in ("train", "train_nodes"))
    assert len(one) == 120 and one == two


def test_comparison_files(cluster: SlurmCluster, tiny: dict[str, str], tmp_path: Path) -> None:
    """compare_array.sbatch, and compare_report.sbatch after it."""
    here = {
        "#SBATCH --array=": "#SBATCH --array=0-1%2", "arms=": 'arms=("full none" "lora dri")',
        "run=": f"run={tmp_path}/compare/arms/$tuning-$augmentation",
        "optim.max_steps=": "optim.max_steps=4 zero=zero0 evaluation.num_responses=2 evaluation.max_new_tokens=4",
    }  # fmt: skip
    arms = submit(edited("compare_array", tmp_path, **tiny, **here))
    script = edited("compare_report", tmp_path, **{"out=": f"out={tmp_path}/compare"})
    report = submit(script, f"--dependency=afterany:{arms}")
    finished_well(report, tmp_path)
    finished_well(arms, tmp_path)
    results = read_json(tmp_path / "compare" / "results.json")
    assert {arm["name"]: arm["state"] for arm in results["arms"]} == {"full-none": "finished", "lora-dri": "finished"}
    assert (tmp_path / "compare" / "report.html").is_file()


VLLM = """#!/bin/bash
# serve MODEL --host HOST --port PORT --tensor-parallel-size N
exec {python} -m launch teacher serve.host="$4" serve.port="$6" serve.api_key=VLLM_API_KEY
"""


def test_generation_files(cluster: SlurmCluster, tmp_path: Path) -> None:
    """teacher.sbatch with the offline teacher in vLLM's place, and generate_array.sbatch, a shard of it requeued."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vllm").write_text(VLLM.format(python=sys.executable))
    (tmp_path / "bin" / "vllm").chmod(0o755)
    out = tmp_path / "generated"
    teacher = submit(edited("teacher", tmp_path, **{"model=": "model=offline-teacher", "out=": f"out={out}"}))
    until((out / "teacher.key").is_file, "the teacher's key", tmp_path)
    here = {
        "out=": f"out={out}", "#SBATCH --array=": "#SBATCH --array=0-1",
        "teacher.model=": "teacher.model=offline-teacher",
        "generate.num_dialogues=": "generate.num_dialogues=40 teacher.requests_per_minute=120",
    }  # fmt: skip
    shards = submit(edited("generate_array", tmp_path, **here))
    journal = out / "shard-1" / "journal.jsonl"
    until(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 3, "three candidates", tmp_path)
    cluster.command("scancel", "--signal=USR2", f"{shards}_1")
    finished_well(shards, tmp_path)
    assert "the journal says where to go on" in (tmp_path / f"slurm-extes-generate-{shards}_1.out").read_text()
    cluster.command("scancel", teacher)
    until(lambda: not (out / "teacher.url").exists(), "the teacher's end", tmp_path)
    found = [len(read_dialogues(out / f"shard-{index}" / "dialogues.jsonl")) for index in range(2)]
    assert sum(found) >= 40 and min(found) > 0
    assert main(["merge", f"{out}/shard-0", f"{out}/shard-1", "-o", str(out)]) == 0
