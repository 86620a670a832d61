"""The verbs `train`, `evaluate` and `chat`: compose, check, start workers."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from extes_train.errors import ConfigError, ModelError
from launch.composing import Request, read_request
from launch.config import SlurmConfig, TorchrunConfig
from launch.launchers import deepspeed, local, torchrun
from launch.processes import run_workers

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
    request = read_request("evaluate", arguments)
    if request is None:
        return 0
    return start(request, "extes_train.evaluate")


def chat(arguments: Sequence[str]) -> int:
    """`extes chat`: in the foreground, with this terminal."""
    request = read_request("chat", arguments)
    if request is None:
        return 0
    command = [sys.executable, "-m", "extes_train.chat", *request.overrides]
    return subprocess.call(command, env=local_environment())


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


def require_data(request: Request) -> None:
    """data.train is needed, and a file."""
    data = request.config.data
    if not data.train:
        raise ConfigError("data.train: needs a dialogues.jsonl; make one with `extes import` or `extes generate`")
    for key, value in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if value and not Path(value).is_file():
            raise ConfigError(f"data.{key}={value}: no such file")
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
