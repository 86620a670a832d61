"""A comparison on Slurm: one array of arms, then an array of evaluations, then the report; only what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extes_train.dialogue.files import read_json, write_json, write_text
from extes_train.errors import EXIT_OK, LaunchError
from launch.arms import Arm
from launch.comparing import budget_overrides, is_evaluated, is_trained, write_comparison
from launch.composing import Request, compose_request
from launch.config import RootConfig, SlurmConfig
from launch.launchers.slurm import evaluation_job, interpreter, report_job, training_job
from launch.slurm import commands
from launch.slurm.freeze import freeze_code, freeze_overrides
from launch.slurm.script import Job, render_script
from launch.slurm.submit import record_job, write_script


@dataclass
class Ledger:
    """OUT/slurm/jobs.json: which job does what for which arm."""

    train: dict[str, str] = field(default_factory=dict)  # arm -> job id
    evaluate: dict[str, str] = field(default_factory=dict)
    report: str | None = None


def submit_comparison(request: Request, arms: Sequence[Arm]) -> int:
    """Submit what is missing of the comparison; returns at once, or with launcher.follow after the report."""
    launcher = request.config.launcher
    assert isinstance(launcher, SlurmConfig)
    out = Path(request.config.compare.out)
    train, evaluate, report = comparison_jobs(launcher, out)
    if launcher.dry_run:
        for job in (train, evaluate, report):
            print(render_script(job, launcher, interpreter(launcher), out / "slurm" / "code"))
        return EXIT_OK
    if launcher.preflight:
        check_arms_fit(request, [arm for arm in arms if not is_trained(arm)])
    ledger = read_ledger(out)
    queued = commands.queued_jobs()
    write_arms(request.config, out, arms)
    write_comparison(request, arms)
    code = freeze_code(out)
    scripts = [write_script(job, launcher, code) for job in (train, evaluate, report)]
    submission = Submission(out, arms, ledger, set(queued), launcher.array_concurrency)
    submission.submit_training(scripts[0], reference_first(request.config, arms))
    submission.submit_evaluation(scripts[1])
    submission.submit_report(scripts[2])
    write_ledger(out, ledger)
    print(submission.describe())
    if launcher.follow and ledger.report:
        return follow_comparison(out, ledger.report)
    return EXIT_OK


def comparison_jobs(launcher: SlurmConfig, out: Path) -> tuple[Job, Job, Job]:
    """Training and evaluation of the arms as arrays, and the report."""
    train, evaluate = training_job(launcher, out), evaluation_job(launcher, out)
    for job in (train, evaluate):
        job.array = True
        job.title = f"{'Trains' if job is train else 'Evaluates'} the arms of {out.name}, one per task of the array."
    return train, evaluate, report_job(launcher, out)


class Submission:
    """One call of sbatch for each stage that has something to do; `ledger` is kept up to date."""

    def __init__(self, out: Path, arms: Sequence[Arm], ledger: Ledger, queued: set[str], cap: int | None) -> None:
        self.out, self.arms, self.ledger, self.queued = out, arms, ledger, queued
        self.cap = f"%{cap}" if cap else ""
        self.told: list[str] = []

    def waiting(self, job_id: str | None) -> bool:
        """True while a job of an earlier submission is queued or running."""
        return job_id is not None and job_id in self.queued

    def submit_training(self, script: Path, reference: int | None) -> None:
        """The arms that are neither trained nor queued; `reference` before the others, where it gives the budget."""
        missing = [
            index
            for index, arm in enumerate(self.arms)
            if not is_trained(arm) and not self.waiting(self.ledger.train.get(arm.name))
        ]
        groups: list[tuple[list[int], str | None]] = [(missing, None)]
        if reference is not None and not is_trained(self.arms[reference]):
            first = [index for index in missing if index == reference]
            if first:
                self._submit("train", script, first, None)
            before = f"afterok:{self.ledger.train[self.arms[reference].name]}"
            groups = [([index for index in missing if index != reference], before)]
        for indexes, dependency in groups:
            self._submit("train", script, indexes, dependency)

    def submit_evaluation(self, script: Path) -> None:
        """Trained arms at once; the others each after its own training."""
        missing = [
            index
            for index, arm in enumerate(self.arms)
            if not (is_trained(arm) and is_evaluated(arm)) and not self.waiting(self.ledger.evaluate.get(arm.name))
        ]
        self._submit("evaluate", script, [index for index in missing if is_trained(self.arms[index])], None)
        after: dict[str, list[int]] = {}
        for index in missing:
            arm = self.arms[index]
            if not is_trained(arm) and arm.name in self.ledger.train:
                after.setdefault(self.ledger.train[arm.name].split("_")[0], []).append(index)
        for job_id, indexes in after.items():
            self._submit("evaluate", script, indexes, f"aftercorr:{job_id}")

    def submit_report(self, script: Path) -> None:
        """After every evaluation, however it ended. A report that waits already is replaced."""
        if self.ledger.report in self.queued:
            commands.cancel([str(self.ledger.report)])
        ids = {job for job in self.ledger.evaluate.values() if job in self.queued}
        dependency = f"afterany:{':'.join(sorted(ids))}" if ids else None
        self.ledger.report = commands.submit(script, dependency)
        self.told.append(f"report: job {self.ledger.report}")

    def _submit(self, stage: str, script: Path, indexes: Sequence[int], dependency: str | None) -> None:
        if not indexes:
            return
        array = ",".join(map(str, indexes)) + self.cap
        job_id = commands.submit(script, dependency, array)
        table = self.ledger.train if stage == "train" else self.ledger.evaluate
        for index in indexes:
            arm, task = self.arms[index], f"{job_id}_{index}"
            table[arm.name] = task
            self.queued.add(task)
            if stage == "train":
                record_job(arm.run_dir, task, arm.run_dir / "logs" / f"slurm-{task}.out", stage)
        self.told.append(f"{stage}: job {job_id}, {', '.join(self.arms[index].name for index in indexes)}")

    def describe(self) -> str:
        """What was submitted, and how to look after it."""
        lines = self.told if len(self.told) > 1 else ["nothing is missing; the report is written again", *self.told]
        return "\n".join([*lines, f"  extes status {self.out}", f"  extes cancel {self.out}"])


def write_arms(config: RootConfig, out: Path, arms: Sequence[Arm]) -> None:
    """OUT/slurm/arms/INDEX.{run_dir,overrides,budget}: what a task of the array reads."""
    folder = out / "slurm" / "arms"
    for index, arm in enumerate(arms):
        waits = reference_first(config, arms) is not None and index > 0 and not is_trained(arms[0])
        extra = [] if waits else budget_overrides(config, arm, arms[0])
        freeze_overrides(folder / f"{index}.overrides", [*arm.overrides, *extra])
        write_text(folder / f"{index}.run_dir", f"{arm.run_dir}\n")
        if waits:
            value = {"budget": config.compare.budget, "cost": str(arms[0].run_dir / "cost.json")}
            write_json(folder / f"{index}.budget", value)
        else:
            (folder / f"{index}.budget").unlink(missing_ok=True)


def reference_first(config: RootConfig, arms: Sequence[Arm]) -> int | None:
    """0 where the first arm's costs are the others' budget, else None."""
    given = {"targets": config.optim.max_targets, "seconds": config.optim.max_seconds}
    budget = config.compare.budget
    return 0 if budget in given and given[budget] is None else None


def check_arms_fit(request: Request, arms: Iterable[Arm]) -> None:
    """Preflight of one arm of each kind. Raises LaunchError."""
    from launch.preflight import check_launch

    ours = [
        word for word in request.overrides if word.lstrip("+~").split("=")[0].split(".")[0] in ("launcher", "network")
    ]
    seen: set[tuple[str, str]] = set()
    for arm in arms:
        if (arm.tuning, arm.augmentation) not in seen:
            seen.add((arm.tuning, arm.augmentation))
            print(f"{arm.name}:")
            check_launch(compose_request([*arm.overrides, *ours]))


def read_ledger(out: Path) -> Ledger:
    """OUT/slurm/jobs.json, or an empty one."""
    path = out / "slurm" / "jobs.json"
    if not path.is_file():
        return Ledger()
    value = read_json(path)
    return Ledger(value["train"], value["evaluate"], value["report"])


def write_ledger(out: Path, ledger: Ledger) -> None:
    """With every job id once, for `extes cancel`."""
    tasks = [*ledger.train.values(), *ledger.evaluate.values(), *([ledger.report] if ledger.report else [])]
    ids = sorted({task.split("_")[0] for task in tasks})
    value = {"train": ledger.train, "evaluate": ledger.evaluate, "report": ledger.report, "job_ids": ids}
    write_json(out / "slurm" / "jobs.json", value)


def follow_comparison(out: Path, report: str) -> int:
    """Tell every change of state until the report is there; its table is the end. Ctrl-C leaves the jobs alone."""
    import time

    from launch.run_state import describe_run, find_runs, slurm_states

    shown: dict[str, str] = {}
    while report in commands.queued_jobs():
        runs = list(find_runs(out))
        states = slurm_states(runs)
        for run in runs:
            found = describe_run(run, states)
            if shown.get(str(run)) != found.state:
                shown[str(run)] = found.state
                print(f"[{time.strftime('%H:%M:%S')}] {run.name}: {found.state}", flush=True)
        time.sleep(2)
    log = out / "logs" / f"slurm-{report}.out"
    if not (out / "results.json").is_file():
        raise LaunchError(f"the report job {report} left no results.json; see {log}")
    print(log.read_text(encoding="utf-8"), end="")
    states_of = {arm["name"]: arm["state"] for arm in json.loads((out / "compare.json").read_text())["arms"]}
    failed = [name for name, state in states_of.items() if state != "finished"]
    if failed:
        raise LaunchError(f"failed arms: {', '.join(failed)}; the others are in {out}/report.md")
    return EXIT_OK
