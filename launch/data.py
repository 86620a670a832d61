"""The verbs `generate`, `inpaint` and `teacher`."""

from __future__ import annotations

from collections.abc import Sequence

from extes_train.errors import ConfigError
from launch.composing import read_request
from launch.config import RootConfig, SlurmConfig


def generate(arguments: Sequence[str]) -> int:
    """`extes generate`."""
    request = read_request("generate", arguments)
    if request is None:
        return 0
    if isinstance(request.config.launcher, SlurmConfig):
        from launch.generating import submit_generation

        return submit_generation(request)
    run_generate(request.config)
    return 0


def inpaint(arguments: Sequence[str]) -> int:
    """`extes inpaint`."""
    request = read_request("inpaint", arguments)
    if request is None:
        return 0
    if not request.config.inpaint.input:
        raise ConfigError("inpaint.in: needs the dialogues.jsonl to write alternatives for")
    run_inpaint(request.config)
    return 0


def run_generate(config: RootConfig) -> None:
    """Grow the dataset of `config.generate` with `config.teacher`."""
    from data_gen.generate import generate

    check_teacher(config)
    generate(config.generate, config.teacher)


def run_inpaint(config: RootConfig) -> None:
    """Write the alternatives of `config.inpaint` with `config.teacher`."""
    from data_gen.inpaint import inpaint

    check_teacher(config)
    inpaint(config.inpaint, config.teacher)


def check_teacher(config: RootConfig) -> None:
    """An endpoint needs an address and a model."""
    teacher = config.teacher
    if teacher.name == "offline":
        return
    if not teacher.base_url and not teacher.url_file:
        raise ConfigError("teacher.base_url: needs the endpoint's address, e.g. http://127.0.0.1:8000/v1")
    if not teacher.model:
        raise ConfigError("teacher.model: needs the name under which the endpoint serves its model")


def teacher(arguments: Sequence[str]) -> int:
    """`extes teacher`: serve until interrupted."""
    request = read_request("teacher", arguments)
    if request is None:
        return 0
    from data_gen.teacher.serve import run_server

    def tell(url: str) -> None:
        print(
            f"serving {url} until Ctrl-C; from another terminal:\n"
            f"  extes generate teacher=http teacher.model=offline-teacher \\\n         teacher.base_url={url}",
            flush=True,
        )

    run_server(request.config.serve, tell)
    return 0
