"""torchrun's agent with two real workers: a kill is told from a failure, and the failing rank speaks last."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from extes_train.errors import EXIT_INTERNAL
from launch.processes import run_workers

WORKER = """
import os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
from extes_train.worker import run_worker

def main(arguments):
    mark = pathlib.Path(arguments[0], f"started-{{os.environ['RANK']}}")
    if os.environ["RANK"] == "0":
        time.sleep(60)  # as in a collective that waits for rank 1
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("rank 1 has a bug")

run_worker(main)
"""


def test_killed_then_failed(tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.format(root=str(root)))
    options = ["--standalone", "--nproc-per-node=2", "--max-restarts=0"]
    command = [sys.executable, "-m", "launch.agent", *options, str(worker), str(tmp_path)]
    assert run_workers(command, run_dir=tmp_path, processes=2, max_restarts=3) == EXIT_INTERNAL
    shown = capfd.readouterr().err
    assert "a worker was killed; restart 1 of 3" in shown and "restart 2" not in shown
    assert shown.rstrip().endswith("ValueError: rank 1 has a bug")
    assert "ChildFailedError" not in shown
    failures = json.loads((tmp_path / "logs" / "exit" / "agent.json").read_text())
    assert {"rank": 1, "exitcode": 1} in failures
