"""The verbs `train`, `evaluate` and `chat`: compose, check, start workers."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from extes_train.errors import ConfigError, ModelError
from launch.composing import Request, read_request
from launch.config import RootConfig, SlurmConfig, TorchrunConfig
from launch.launchers import deepspeed, local, torchrun
from launch.processes import run_workers

# sections that say how a run is started and watched, not what it learned
NOT_OF_MODEL = ("run_dir", "launcher", "network", "tracker", "debug")
LOCAL_LAUNCHERS = {"local": local, "torchrun": torchrun, "deepspeed": deepspeed}


def train(arguments: Sequence[str]) -> int:
    """`extes train`."""
    request = read_request("train", arguments)
    if request is None:
        return 0
    require_data(request)
    require_model(request)
    return start(request, "extes_train.train")


def evaluate(arguments: Sequence[str]) -> int:
    """`extes evaluate`."""
    request = read_request("evaluate", with_run_words(arguments))
    if request is None:
        return 0
    require_run(request)
    return start(request, "extes_train.evaluate")


def chat(arguments: Sequence[str]) -> int:
    """`extes chat`: in the foreground, with this terminal."""
    request = read_request("chat", with_run_words(arguments))
    if request is None:
        return 0
    require_run(request)
    command = [sys.executable, "-m", "extes_train.chat", *request.overrides]
    return subprocess.call(command, env=local_environment())


def with_run_words(arguments: Sequence[str]) -> list[str]:
    """The words that the run was trained with, then `arguments`, which win: `run_dir=…` says all of a run.

    What starts and watches a run is left out, and what `arguments` say themselves.
    """
    keys = {key_of(word) for word in arguments}
    run_dir = next((word.partition("=")[2] for word in reversed(arguments) if key_of(word) == "run_dir"), "")
    words = Path(run_dir.strip("'\"") or RootConfig().run_dir).expanduser() / "overrides.txt"
    if not words.is_file():
        return list(arguments)
    of_run = words.read_text(encoding="utf-8").splitlines()
    kept = [word for word in of_run if key_of(word) not in keys and key_of(word).split(".")[0] not in NOT_OF_MODEL]
    return [*kept, *arguments]


def key_of(word: str) -> str:
    """The key of `key=value`, without Hydra's signs."""
    return word.partition("=")[0].lstrip("+")


def local_environment() -> dict[str, str]:
    """The environment of one process on this machine."""
    from launch.environment import worker_environment

    return worker_environment({}, 1, None)


def start(request: Request, module: str) -> int:
    """Start `module` with the request's launcher and wait (Slurm: submit)."""
    launcher = request.config.launcher
    if isinstance(launcher, SlurmConfig):
        from launch.slurm.submit import submit_run

        return submit_run(request, module)
    command = worker_command(request, module)
    if launcher.dry_run:
        print(shlex.join(command))
        return 0
    if launcher.preflight and module == "extes_train.train":
        from launch.preflight import check_launch

        check_launch(request)
    return run_workers(
        command,
        run_dir=Path(request.config.run_dir),
        processes=process_count(request),
        environment=launcher.environment,
        max_restarts=launcher.max_restarts if isinstance(launcher, TorchrunConfig) else 0,
    )


def worker_command(request: Request, module: str) -> list[str]:
    """The command that starts `module` on this machine."""
    launcher = request.config.launcher
    return LOCAL_LAUNCHERS[launcher.name].worker_command(module, request.overrides, launcher)


def process_count(request: Request) -> int:
    """Workers on this machine."""
    launcher = request.config.launcher
    return LOCAL_LAUNCHERS[launcher.name].processes(launcher)


def require_run(request: Request) -> None:
    """A tuned model is needed: RUN/model, or evaluation.model."""
    run = Path(request.config.run_dir)
    if request.config.evaluation.model or (run / "model").is_dir():
        return
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"run_dir={run}: no run of `extes train` is there; or name a model with evaluation.model")
    raise ModelError(f"run_dir={run}: holds no model yet; the training command finishes it (`extes status {run}`)")


def require_data(request: Request) -> None:
    """data.train is needed, and a file."""
    data = request.config.data
    if not data.train:
        raise ConfigError("data.train: needs a dialogues.jsonl; make one with `extes import` or `extes generate`")
    for key, value in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if value and not Path(value).is_file():
            raise ConfigError(
                f"data.{key}={value}: {'is a folder; name a file' if Path(value).is_dir() else 'no such file'}"
            )
    inpainted = request.config.augmentation.train
    if inpainted and not Path(inpainted).is_file():
        raise ConfigError(f"augmentation.train={inpainted}: no such file; write it with `extes inpaint`")


def require_model(request: Request) -> None:
    """model.path is needed; what looks like a path must be a folder."""
    path = request.config.model.path
    if not path:
        raise ConfigError("model.path: needs a folder with a Llama-architecture model (or a hub id)")
    looks_local = path.startswith(("/", ".", "~")) or path.count("/") != 1
    if looks_local and not Path(path).is_dir():
        raise ModelError(f"model.path={path}: no such folder")
