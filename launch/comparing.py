"""`extes compare`: data, base, arms, evaluation, report. Stages meet through files and are not done twice."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from extes_train.dialogue.files import read_json, write_json
from extes_train.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_REQUEUE, Interrupted, Requeue, UserError
from launch.arms import Arm, list_arms
from launch.composing import Request, override, read_request, set_key
from launch.config import RootConfig, SlurmConfig, TorchrunConfig
from launch.environment import available_cores, visible_gpus
from launch.processes import checkpointed_step, run_together, run_workers
from launch.training import LOCAL_LAUNCHERS, local_environment, require_data, require_model


def compare(arguments: Sequence[str]) -> int:
    """`extes compare`."""
    request = read_request("compare", arguments)
    if request is None:
        return EXIT_OK
    out = Path(request.config.compare.out)
    shared = planned_paths(request)
    arms = list_arms(request, shared)
    if request.config.launcher.dry_run:
        if isinstance(request.config.launcher, SlurmConfig):
            from launch.slurm.compare import submit_comparison

            return submit_comparison(request, arms)
        print_plan(request, arms)
        return EXIT_OK
    check_arms(arms)
    require_data_or_generate(request)
    prepare_data(request)
    if isinstance(request.config.launcher, SlurmConfig):
        from launch.slurm.compare import submit_comparison

        return submit_comparison(request, arms)
    require_model(request)
    if request.config.launcher.preflight:
        check_arms_fit(request, arms)
    for arm in arms:
        train_arm(request, arm, arms[0])
    write_comparison(request, arms)
    evaluate_arms(request, arms)
    write_comparison(request, arms)
    failed = [arm.name for arm in arms if arm_state(arm) != "finished"]
    say("report", out / "report.html")
    print_report(out)
    if failed:
        print(f"extes: failed arms: {', '.join(failed)}; the others are in the report", file=sys.stderr)
    return EXIT_INTERNAL if failed else EXIT_OK


def report(arguments: Sequence[str]) -> int:
    """`extes report DIR`."""
    words = [word for word in arguments if not word.startswith("-")]
    if len(words) != 1 or len(words) != len(arguments):
        print("usage: extes report DIR\n\nWrite DIR/results.json, report.md and report.html of a comparison again.")
        return EXIT_OK if "--help" in arguments or "-h" in arguments else 2
    if not (Path(words[0]) / "compare.json").is_file():
        raise UserError(f"{words[0]}: holds no comparison (no compare.json)")
    print_report(Path(words[0]))
    return EXIT_OK


def print_report(out: Path) -> None:
    """Write the report's files and print its table."""
    from extes_train.report.write import print_table, write_report

    print_table(write_report(out))


def planned_paths(request: Request) -> list[str]:
    """Overrides of data and model paths that stages of this comparison will make; `config` is set alike."""
    config = request.config
    made: dict[str, str] = {}
    if config.compare.generate:
        made["data.train"] = str(Path(config.inpaint.out) / "dialogues.jsonl")
        for side in ("valid", "test"):
            if config.generate.sides.get(side):
                made[f"data.{side}"] = str(Path(config.generate.out) / f"{side}.jsonl")
    if config.pretrain.enabled:
        made["model.path"] = str(Path(config.compare.out) / "base")
    for key, value in made.items():
        set_key(config, key, value)
    return [override(key, value) for key, value in made.items()]


def check_arms(arms: Sequence[Arm]) -> None:
    """Compose every arm as its worker will, before anything is spent."""
    from extes_train.composition import compose as compose_config

    for arm in arms:
        compose_config(arm.overrides)


def check_arms_fit(request: Request, arms: Sequence[Arm]) -> None:
    """Preflight of one arm of each kind that is not trained yet, silent where all is well. Raises LaunchError."""
    from launch.composing import compose_request
    from launch.preflight import problems_of_arm, refuse

    words = [w for w in request.overrides if w.lstrip("+~").split("=")[0].split(".")[0] in ("launcher", "network")]
    kinds = {(arm.tuning, arm.augmentation): arm for arm in reversed(arms) if not is_trained(arm)}
    for arm in reversed(kinds.values()):
        refuse([f"arm {arm.name}: {text}" for text in problems_of_arm(compose_request([*arm.overrides, *words]))])


def require_data_or_generate(request: Request) -> None:
    """Data must be there, or be made by this comparison."""
    if not request.config.compare.generate:
        require_data(request)
    if not request.config.pretrain.enabled:
        require_model(request)


def prepare_data(request: Request) -> None:
    """Generate, inpaint and pretrain, where the comparison asks for it. Finished stages return at once."""
    config = request.config
    if config.compare.generate:
        from launch.data import run_generate, run_inpaint

        timed("generate", lambda: run_generate(config))
        config.inpaint.input = config.inpaint.input or str(Path(config.generate.out) / "train.jsonl")
        timed("inpaint", lambda: run_inpaint(config))
    if config.pretrain.enabled:
        timed("pretrain", lambda: pretrain(config))


def pretrain(config: RootConfig) -> None:
    """Train the tiny base in a worker of its own; cached by its inputs."""
    settings = config.pretrain
    command = [sys.executable, "-m", "extes_train.pretrain", "--data", str(Path(config.generate.out) / "base.jsonl")]
    command += ["--out", config.model.path or "", "--max-steps", str(settings.max_steps), "--lr", str(settings.lr)]
    command += ["--dialogues-per-step", str(settings.dialogues_per_step), "--vocab-size", str(settings.vocab_size)]
    command += ["--context-length", str(settings.context_length)]
    command += ["--cache-dir", settings.cache_dir] if settings.cache_dir else []
    environment = local_environment()
    code = subprocess.call(command, env=environment)
    if code != EXIT_OK:
        raise UserError("pretraining the base model failed (above)")


def train_arm(request: Request, arm: Arm, reference: Arm) -> None:
    """Train one arm unless it is trained; a failure is recorded and hides no other arm."""
    if is_trained(arm):
        say(f"train {arm.name}", "done before")
        return
    if checkpointed_step(arm.run_dir) is None:  # nothing to lose, and its configuration may have been mended
        shutil.rmtree(arm.run_dir, ignore_errors=True)
    overrides = arm.overrides + budget_overrides(request.config, arm, reference)
    launcher = request.config.launcher
    kind = LOCAL_LAUNCHERS[launcher.name]
    restarts = launcher.max_restarts if isinstance(launcher, TorchrunConfig) else 0
    start = time.perf_counter()
    code = run_workers(
        kind.worker_command("extes_train.train", overrides, launcher),
        run_dir=arm.run_dir,
        processes=kind.processes(launcher),
        environment=launcher.environment,
        max_restarts=restarts,
    )
    if code == EXIT_INTERRUPTED:
        raise Interrupted(f"stopped in arm {arm.name}; the same command goes on from here")
    if code == EXIT_REQUEUE:
        raise Requeue(f"checkpointed in arm {arm.name}; the same command goes on from here")
    say(f"train {arm.name}", f"{'failed' if code else 'done'} in {time.perf_counter() - start:.0f} s")


def budget_overrides(config: RootConfig, arm: Arm, reference: Arm) -> list[str]:
    """What makes this arm cost as much as the `reference` arm, in the budget's unit."""
    budget = config.compare.budget
    if budget == "epochs":
        return ["optim.max_steps=null"]
    if budget in ("steps",) or arm is reference:
        return []
    given = config.optim.max_targets if budget == "targets" else config.optim.max_seconds
    if given is not None:
        return ["optim.max_steps=null", "optim.epochs=1000000"]
    cost_file = reference.run_dir / "cost.json"
    if not cost_file.is_file():
        raise UserError(f"compare.budget={budget}: the first arm ({reference.name}) gives the budget, and it failed")
    cost = read_json(cost_file)
    key, value = ("max_targets", cost["targets"]) if budget == "targets" else ("max_seconds", cost["train_seconds"])
    return ["optim.max_steps=null", "optim.epochs=1000000", override(f"optim.{key}", value)]


def evaluate_arms(request: Request, arms: Sequence[Arm]) -> None:
    """Evaluate trained arms: with all of the launcher's processes, or on CPU the first alone, as it also scores the
    base, then two at a time."""
    waiting = [arm for arm in arms if is_trained(arm) and not is_evaluated(arm)]
    launcher = request.config.launcher
    kind = LOCAL_LAUNCHERS[launcher.name]
    processes = kind.processes(launcher)
    at_a_time = 2 if processes == 1 and not visible_gpus() and available_cores() > 1 else 1
    groups = [waiting[:1], *(waiting[i : i + at_a_time] for i in range(1, len(waiting), at_a_time))]
    for group in filter(None, groups):
        start = time.perf_counter()
        commands = [kind.worker_command("extes_train.evaluate", arm.overrides, launcher) for arm in group]
        codes = run_together(
            commands,
            run_dirs=[arm.run_dir for arm in group],
            processes=processes * len(group),
            environment=launcher.environment,
        )
        if EXIT_INTERRUPTED in codes:
            raise Interrupted("stopped in evaluation; the same command goes on from here")
        if EXIT_REQUEUE in codes:
            raise Requeue("stopped in evaluation; the same command goes on from here")
        for arm, code in zip(group, codes):
            say(f"evaluate {arm.name}", f"{'failed' if code else 'done'} in {time.perf_counter() - start:.0f} s")


def is_trained(arm: Arm) -> bool:
    """True when the final model and the costs are written (costs come last)."""
    return (arm.run_dir / "model").is_dir() and (arm.run_dir / "cost.json").is_file()


def is_evaluated(arm: Arm) -> bool:
    """True when the metrics are newer than the model's costs."""
    metrics, cost = arm.run_dir / "evaluation" / "metrics.json", arm.run_dir / "cost.json"
    return metrics.is_file() and metrics.stat().st_mtime_ns >= cost.stat().st_mtime_ns


def arm_state(arm: Arm) -> str:
    """waiting | failed | trained | finished, from the files alone."""
    if is_trained(arm):
        return "finished" if is_evaluated(arm) else "trained"
    return "failed" if (arm.run_dir / "logs").exists() else "waiting"


def write_comparison(request: Request, arms: Sequence[Arm]) -> None:
    """compare.json: what the report reads."""
    config = request.config
    listed: list[dict[str, Any]] = [
        {
            "name": arm.name,
            "tuning": arm.tuning,
            "augmentation": arm.augmentation,
            "seed": arm.seed,
            "state": arm_state(arm),
            "run_dir": str(arm.run_dir.relative_to(config.compare.out)),
            "overrides": arm.overrides,
        }
        for arm in arms
    ]
    generated = config.compare.generate
    value = {
        "schema": 1,
        "experiment": config.experiment,
        "budget": config.compare.budget,
        "data": {"train": config.data.train, "valid": config.data.valid, "generated": generated},
        "teacher": config.teacher.model if generated else None,
        "model": config.model.path,
        "arms": listed,
    }
    write_json(Path(config.compare.out) / "compare.json", value)


def print_plan(request: Request, arms: Sequence[Arm]) -> None:
    """launcher.dry_run: every command, nothing started."""
    launcher = request.config.launcher
    for arm in arms:
        for module in ("extes_train.train", "extes_train.evaluate"):
            print(shlex.join(LOCAL_LAUNCHERS[launcher.name].worker_command(module, arm.overrides, launcher)))


def timed(stage: str, act: Callable[[], object]) -> None:
    """Run a stage and say how long it took."""
    start = time.perf_counter()
    act()
    say(stage, f"done in {time.perf_counter() - start:.0f} s")


def say(stage: str, text: object) -> None:
    """One line of the comparison's own log."""
    print(f"[{time.strftime('%H:%M:%S')}] {stage}: {text}", flush=True)
