"""The verbs `generate`, `inpaint` and `teacher`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from extes_train.errors import ConfigError
from launch.composing import read_request
from launch.config import RootConfig, SlurmConfig
from launch.tracking import feed_opener, without_tracker


def generate(arguments: Sequence[str]) -> int:
    """`extes generate`."""
    request = read_request("generate", without_tracker(arguments))
    if request is None:
        return 0
    if isinstance(request.config.launcher, SlurmConfig):
        from launch.generating import submit_generation

        return submit_generation(request)
    run_generate(request.config, feed_opener(request.config, request.config.generate.out, "generate"))
    return 0


def inpaint(arguments: Sequence[str]) -> int:
    """`extes inpaint`."""
    request = read_request("inpaint", without_tracker(arguments))
    if request is None:
        return 0
    if not request.config.inpaint.input:
        raise ConfigError("inpaint.in: needs the dialogues.jsonl to write alternatives for")
    run_inpaint(request.config, feed_opener(request.config, request.config.inpaint.out, "inpaint"))
    return 0


def run_generate(config: RootConfig, open_feed: Callable[[], Any] | None = None) -> None:
    """Grow the dataset of `config.generate` with `config.teacher`; `open_feed` as in `data_gen.tracking`."""
    from data_gen.generate import generate

    check_teacher(config)
    generate(config.generate, config.teacher, open_feed=open_feed)


def run_inpaint(config: RootConfig, open_feed: Callable[[], Any] | None = None) -> None:
    """Write the alternatives of `config.inpaint` with `config.teacher`; `open_feed` as in `data_gen.tracking`."""
    from data_gen.inpaint import inpaint

    check_teacher(config)
    inpaint(config.inpaint, config.teacher, open_feed=open_feed)


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
