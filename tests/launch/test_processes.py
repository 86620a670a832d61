"""Workers as real child processes: how they end, when they start again, who hears a signal."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from extes_train.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_REQUEUE, EXIT_USER
from launch.processes import checkpointed_step, judge, run_together, run_workers

# what a child can do: leave a rank's exit record, count its starts, complete a checkpoint, kill itself
CHILD = """
import json, os, pathlib, signal, sys, time
records, run = pathlib.Path(os.environ["EXTES_EXIT_RECORDS"]), pathlib.Path(sys.argv[1])
starts = run / "starts"
start = len(starts.read_text()) + 1 if starts.exists() else 1
starts.write_text("x" * start)
def record(rank, code, traceback="", at=0.0):
    text = json.dumps({"rank": rank, "code": code, "traceback": traceback, "time": at})
    (records / f"rank-{rank}.json").write_text(text)
def checkpoint(step):
    (run / "checkpoints" / f"step-{step}").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints" / f"step-{step}" / "COMPLETED").touch()
def kill(): os.kill(os.getpid(), signal.SIGKILL)
"""


def run(tmp_path: Path, body: str, max_restarts: int = 0, output: Path | None = None) -> int:
    """`body` after CHILD, as the one worker of a run in `tmp_path`."""
    script = tmp_path / "child.py"
    script.write_text(CHILD + textwrap.dedent(body))
    command = [sys.executable, "-S", str(script), str(tmp_path)]
    return run_workers(command, run_dir=tmp_path, processes=1, max_restarts=max_restarts, output=output)


def starts(tmp_path: Path) -> int:
    """How often the child was started."""
    return len((tmp_path / "starts").read_text())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", EXIT_OK),
        ("sys.exit(1)", EXIT_INTERNAL),
        ("sys.exit(2)", EXIT_USER),
        ("record(0, 2); sys.exit(1)", EXIT_USER),  # torchrun's own code is 1, the rank's is 2
        ("record(0, 75); record(1, 75); sys.exit(75)", EXIT_REQUEUE),
        ("record(0, 75); record(1, 75); sys.exit(1)", EXIT_REQUEUE),
        ("record(0, 75); record(1, 1); sys.exit(1)", EXIT_INTERNAL),
        ("record(0, 130); sys.exit(1)", EXIT_INTERRUPTED),
    ],
)
def test_the_first_failing_ranks_code_is_the_runs(tmp_path: Path, body: str, code: int) -> None:
    assert run(tmp_path, body, max_restarts=3) == code
    assert starts(tmp_path) == 1, "what fails by itself is not started again"


def test_the_first_failing_ranks_words_come_last(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body = """
    record(0, 1, "rank 0: connection closed by peer", at=2.0)
    record(1, 1, "[rank 1 on host]\\nValueError: the cause", at=1.0)
    print("noise of the others", file=sys.stderr, flush=True)
    sys.exit(1)
    """
    assert run(tmp_path, body) == EXIT_INTERNAL
    shown = capfd.readouterr().err
    assert shown.rstrip().endswith("ValueError: the cause")
    assert "connection closed" not in shown


def test_records_of_an_earlier_start_do_not_count(tmp_path: Path) -> None:
    old = tmp_path / "logs" / "exit" / "rank-1.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"rank": 1, "code": 2, "traceback": "", "time": 0}')
    assert run(tmp_path, "sys.exit(1)") == EXIT_INTERNAL


def test_a_killed_worker_is_started_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "kill() if start == 1 else None", max_restarts=3) == EXIT_OK
    assert starts(tmp_path) == 2
    assert "restart 1 of 3" in capfd.readouterr().err


def test_progress_between_kills_earns_every_restart(tmp_path: Path) -> None:
    assert run(tmp_path, "checkpoint(start * 10); kill() if start < 4 else None", max_restarts=3) == EXIT_OK
    assert starts(tmp_path) == 4
    assert checkpointed_step(tmp_path) == 40


def test_killed_twice_at_one_checkpoint_stops(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "checkpoint(20); kill()", max_restarts=9) == 137
    assert starts(tmp_path) == 2
    assert "killed twice at the same checkpoint (step 20)" in capfd.readouterr().err


def test_killed_without_restarts_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "kill()") == 137
    assert "a worker was killed (out of memory?" in capfd.readouterr().err


def test_torchruns_word_on_a_killed_rank_counts(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text('[{"rank": 1, "exitcode": -9}]')
    assert judge(1, tmp_path).killed
    (tmp_path / "agent.json").write_text('[{"rank": 1, "exitcode": 1}]')
    assert not judge(1, tmp_path).killed


@pytest.mark.parametrize(
    ("number", "body", "code"),
    [
        (signal.SIGUSR2, "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))", EXIT_REQUEUE),
        (signal.SIGTERM, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))", EXIT_REQUEUE),
        (signal.SIGINT, "signal.signal(signal.SIGINT, lambda *_: sys.exit(1))", EXIT_INTERRUPTED),
        (signal.SIGTERM, "", EXIT_REQUEUE),  # the worker had no handler yet: nothing to save
        (signal.SIGUSR1, "", EXIT_REQUEUE),
    ],
)
def test_signals_reach_the_worker(tmp_path: Path, number: int, body: str, code: int) -> None:
    before = signal.getsignal(number)
    sender = threading.Thread(target=send_when_ready, args=(tmp_path / "ready", number))
    sender.start()
    assert run(tmp_path, f"{body}\n(run / 'ready').touch()\ntime.sleep(30)") == code
    sender.join()
    assert signal.getsignal(number) is before, "the caller's handler is back"


def test_several_at_a_time(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    commands = []
    for code, folder in enumerate(folders):
        folder.mkdir()
        (folder / "child.py").write_text(f"{CHILD}\nrecord(0, {code}); sys.exit({code})")
        commands.append([sys.executable, "-S", str(folder / "child.py"), str(folder)])
    assert run_together(commands, run_dirs=folders, processes=2) == [0, 1]
    assert all((folder / "logs/exit/rank-0.json").is_file() for folder in folders)


def send_when_ready(ready: Path, number: int) -> None:
    """Send `number` to this process once the child has its handler."""
    for _ in range(1000):
        if ready.exists():
            os.kill(os.getpid(), number)
            return
        time.sleep(0.01)


def test_output_can_go_to_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.txt"
    assert run(tmp_path, "print('hello'); print('oops', file=sys.stderr)", output=log) == EXIT_OK
    assert sorted(log.read_text().split()) == ["hello", "oops"]
    assert capfd.readouterr().out == ""


def test_threads_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.environment import available_cores, worker_environment

    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    environment = worker_environment({"NAME": "value"}, processes=1, exit_records=tmp_path)
    assert environment["OMP_NUM_THREADS"] == str(available_cores())
    assert worker_environment({}, 10_000, None)["OMP_NUM_THREADS"] == "1"
    assert (environment["OMP_WAIT_POLICY"], environment["NAME"]) == ("passive", "value")
    assert environment["EXTES_EXIT_RECORDS"] == str(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert worker_environment({}, 1, None)["MALLOC_MMAP_THRESHOLD_"] == "1048576"
    assert worker_environment({"MALLOC_MMAP_THRESHOLD_": "7"}, 1, None)["MALLOC_MMAP_THRESHOLD_"] == "7"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert worker_environment({}, 2, None)["OMP_NUM_THREADS"] == "7", "the user's own setting stays"
