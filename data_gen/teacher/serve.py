"""Run the offline teacher's server: here until stopped (`extes teacher`), or in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from data_gen.config import FaultsConfig, ServeConfig
from data_gen.environment import child_environment
from extes_train.dialogue.files import write_text
from extes_train.errors import TeacherError

START_S = 30.0  # a child that says nothing for so long has failed


def run_server(config: ServeConfig, on_ready: Callable[[str], None] | None = None, parent: int | None = None) -> None:
    """Serve until SIGINT or SIGTERM. `on_ready` gets the base URL; with `parent`, stop when that process is gone."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(config, on_ready, parent))


@contextlib.contextmanager
def background_server(config: ServeConfig | None = None) -> Iterator[str]:
    """A server in its own process on a free loopback port; yields its base URL. It dies with this process."""
    config = config or ServeConfig(port=0)
    child = subprocess.Popen(
        [sys.executable, "-m", "data_gen.teacher.serve", json.dumps(asdict(config)), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
        start_new_session=True,  # Ctrl-C reaches us first; we stop it
    )
    try:
        yield _first_line(child)
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


def _first_line(child: subprocess.Popen[bytes]) -> str:
    """The base URL that the child prints once it answers."""
    import select

    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], START_S)
    line = child.stdout.readline().decode().strip() if ready else ""
    if not line:
        raise TeacherError(
            f"the offline teacher's server did not start within {START_S:.0f} s (see its messages above)"
        )
    return line


async def _serve(config: ServeConfig, on_ready: Callable[[str], None] | None, parent: int | None) -> None:
    from aiohttp import web

    from data_gen.teacher.server import TeacherServer

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(TeacherServer(config).application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, backlog=1024, shutdown_timeout=1.0)
        try:
            await site.start()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise TeacherError(
                f"serve.port={config.port}: {config.host}:{config.port} cannot be used ({reason}); "
                "choose another serve.port, or 0 for a free one"
            ) from error
        port = runner.addresses[0][1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        url = f"http://{host}:{port}/v1"
        await asyncio.to_thread(_check_health, url)
        if config.url_file:
            write_text(config.url_file, url + "\n")
        if on_ready is not None:
            on_ready(url)
        watch = loop.create_task(_watch(parent, stop)) if parent else None
        await stop.wait()
        if watch is not None:
            watch.cancel()
    finally:
        await runner.cleanup()
        if config.url_file:
            Path(config.url_file).unlink(missing_ok=True)


def _check_health(url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    host_url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    with opener.open(host_url.removesuffix("/v1") + "/health", timeout=10) as answer:
        answer.read()


async def _watch(parent: int, stop: asyncio.Event) -> None:
    """Stop when the parent is gone: its end of our stdin closes, or it is no longer our parent."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, ValueError):
        loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(0, 1) else stop.set())
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    stop.set()


def _main(arguments: list[str]) -> None:
    values = json.loads(arguments[0])
    config = ServeConfig(**{**values, "faults": FaultsConfig(**values["faults"])})

    def tell(url: str) -> None:
        sys.stdout.write(url + "\n")
        sys.stdout.flush()

    run_server(config, tell, parent=int(arguments[1]))


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except TeacherError as error:
        sys.exit(f"{error}")
