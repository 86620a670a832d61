"""Workers on this machine: start, forward signals, restart after a kill, and tell how they ended."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from extes_train.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_REQUEUE
from launch.environment import worker_environment

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
KILLED = (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT)


@dataclass
class Outcome:
    """How a group of workers ended."""

    code: int  # of DESIGN's list
    text: str = ""  # the failing rank's own words, '' where it printed them itself or there are none
    killed: bool = False  # a worker was killed from outside: worth another try


def run_workers(
    command: Sequence[str],
    *,
    run_dir: Path,
    processes: int,
    environment: Mapping[str, str] | None = None,
    max_restarts: int = 0,
    output: Path | None = None,
) -> int:
    """Run `command` until it succeeds, fails by itself, or was killed more than `max_restarts` times.

    Signals to this process go to the workers. Returns the exit code of the rank that failed first; its traceback
    is the last thing printed. Output goes to the terminal, or to `output`.
    """
    last_step: int | None = -1
    for attempt in range(max_restarts + 1):
        (outcome,) = _run_once([command], [run_dir], processes, environment or {}, output)
        if not outcome.killed or attempt == max_restarts:
            break
        step = checkpointed_step(run_dir)
        if attempt > 0 and step == last_step:
            outcome.text += f"\nextes: killed twice at the same checkpoint (step {step}): not started again"
            break
        last_step = step
        print(f"extes: a worker was killed; restart {attempt + 1} of {max_restarts}", file=sys.stderr, flush=True)
    if outcome.text:
        print(outcome.text, file=sys.stderr, flush=True)
    return outcome.code


def run_together(
    commands: Sequence[Sequence[str]],
    *,
    run_dirs: Sequence[Path],
    processes: int,
    environment: Mapping[str, str] | None = None,
) -> list[int]:
    """Run `commands` at the same time, once each, `processes` workers in all; their exit codes."""
    outcomes = _run_once(commands, run_dirs, processes, environment or {}, None)
    for text in dict.fromkeys(outcome.text for outcome in outcomes if outcome.text):
        print(text, file=sys.stderr, flush=True)
    return [outcome.code for outcome in outcomes]


def _run_once(
    commands: Sequence[Sequence[str]],
    run_dirs: Sequence[Path],
    processes: int,
    environment: Mapping[str, str],
    output: Path | None,
) -> list[Outcome]:
    """Each of `commands` writes its exit records below the run directory of the same number."""
    children: list[subprocess.Popen[Any]] = []
    records = [run_dir / "logs" / "exit" for run_dir in run_dirs]
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(output, "ab")) if output else None
        received = stack.enter_context(forwarding(children))
        for command, folder in zip(commands, records):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            child = subprocess.Popen(
                list(command),
                env=worker_environment(environment, processes, folder),
                start_new_session=True,
                stdout=stream,
                stderr=subprocess.STDOUT if stream else None,
            )
            children.append(child)
        for child in children:
            child.wait()
    return [judge(child.returncode, folder, received) for child, folder in zip(children, records)]


@contextlib.contextmanager
def forwarding(children: Sequence[subprocess.Popen[Any]]) -> Iterator[list[int]]:
    """Signals to this process go to the workers of `children`; yields the list of those that came.

    Children that are left at the end (after an error) are killed.
    """
    import psutil

    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            for worker in _workers(child.pid):
                # what only starts workers would answer a Ctrl-C with a traceback
                sent = signal.SIGTERM if number == signal.SIGINT and _is_starter(worker) else number
                with contextlib.suppress(psutil.Error):  # it has just ended
                    worker.send_signal(sent)

    previous = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for child in children:
            if child.poll() is None:
                child.kill()


def _workers(pid: int) -> list[Any]:
    """The processes that train: below torchrun's agent, or the child itself."""
    import psutil

    try:
        root = psutil.Process(pid)
        below = [process for process in root.children(recursive=True) if _is_worker(process)]
        return below or [root]
    except psutil.NoSuchProcess:
        return []


def _is_worker(process: Any) -> bool:
    return any(word.startswith("extes_train.") for word in _words(process)) and not _is_starter(process)


def _is_starter(process: Any) -> bool:
    """torchrun's agent and deepspeed's runner, whose words hold the worker's."""
    return any(word == "launch.agent" or word.startswith("deepspeed.launcher") for word in _words(process))


def _words(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def judge(returncode: int, records: Path, received: Sequence[int] = ()) -> Outcome:
    """The outcome from the process's return code, the ranks' exit records and the signals that were passed on."""
    if returncode == EXIT_OK:
        return Outcome(EXIT_OK)
    if signal.SIGINT in received:
        return Outcome(EXIT_INTERRUPTED)
    ranks = sorted((json.loads(path.read_text()) for path in records.glob("rank-*.json")), key=lambda r: r["time"])
    failed = [record for record in ranks if record["code"] not in (EXIT_OK, EXIT_REQUEUE)]
    agent = json.loads((records / "agent.json").read_text()) if (records / "agent.json").exists() else []
    ends = {returncode, *(failure["exitcode"] for failure in agent)}
    if ends & set(KILLED):
        return Outcome(128 + 9, "extes: a worker was killed (out of memory? see the kernel's log)", killed=True)
    if failed:
        first = failed[0]
        # a user's error is one line and every rank has the same; rank 0 has printed it
        own_words = first["traceback"] if first["rank"] != 0 and first["code"] == EXIT_INTERNAL else ""
        return Outcome(first["code"], own_words)
    if any(record["code"] == EXIT_REQUEUE for record in ranks) or returncode == EXIT_REQUEUE:
        return Outcome(EXIT_REQUEUE)
    if any(-number in ends or 128 + number in ends for number in received):
        name = signal.Signals(received[0]).name
        return Outcome(EXIT_REQUEUE, f"extes: {name} before there was anything to save; start the same command again")
    return Outcome(returncode if returncode > 0 else EXIT_INTERNAL)


def checkpointed_step(run_dir: Path) -> int | None:
    """Step of the newest completed checkpoint, None before the first."""
    steps = [int(path.parent.name.split("-")[1]) for path in run_dir.glob("checkpoints/step-*/COMPLETED")]
    return max(steps, default=None)
