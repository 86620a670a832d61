"""The ranks of one node, without Slurm: who they are, how they end, and signals that come too early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RANK = """
import json, os, signal, sys, time
from pathlib import Path
out, rank = Path(sys.argv[1]), os.environ["RANK"]
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
(out / f"rank-{rank}").write_text(json.dumps({name: os.environ[name] for name in names}))
while not (out / "go").exists():
    time.sleep(0.02)
what = sys.argv[2 + int(os.environ["LOCAL_RANK"])]
if what == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what in ("hang", "wait"):
    time.sleep(60)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "75":
    time.sleep(0.5)  # a checkpoint takes longer than a failure
os._exit(int(what))
"""


def start(folder: Path, *ranks: str, node: int = 0, nodes: int = 1) -> subprocess.Popen[bytes]:
    """`launch.slurm.node` with ranks that end as said."""
    (folder / "a_rank.py").write_text(RANK)
    environment = {
        **os.environ, "PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}", "MASTER_ADDR": "n0", "MASTER_PORT": "7",
        "SLURM_NODEID": str(node), "SLURM_JOB_NUM_NODES": str(nodes), "EXTES_EXIT_RECORDS": str(folder / "exit"),
    }  # fmt: skip
    words = [sys.executable, "-m", "launch.slurm.node", str(len(ranks)), "a_rank", str(folder), *ranks]
    return subprocess.Popen(words, env=environment)


def test_ranks_know_who_they_are(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    assert start(tmp_path, "0", "0", node=1, nodes=3).wait() == 0
    assert json.loads((tmp_path / "rank-3").read_text()) == {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n0",
        "MASTER_PORT": "7",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ranks", "code"),
    [
        (("75", "75"), 0),  # checkpointed: no reason for srun to kill the other nodes
        (("75", "3"), 3),
        (("wait", "3"), 3),  # told to stop
        (("hang", "1"), 1),  # killed
        (("killed", "wait"), 137),
    ],
)
def test_the_code_of_a_node(tmp_path: Path, ranks: tuple[str, str], code: int) -> None:
    node = start(tmp_path, *ranks)
    while not all((tmp_path / f"rank-{rank}").exists() for rank in range(len(ranks))):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert node.wait() == code


def test_a_signal_that_comes_too_early_asks_for_a_requeue(tmp_path: Path) -> None:
    node = start(tmp_path, "0", "0")
    while not (children := children_of(node.pid)):
        time.sleep(0.002)
    os.kill(children[0], signal.SIGUSR2)  # a Python that has hardly started
    while len(children := children_of(node.pid)) < 2 and not (tmp_path / "rank-1").exists():
        time.sleep(0.002)
    (tmp_path / "go").touch()
    assert node.wait() == 0
    first = json.loads((tmp_path / "exit" / "rank-0.json").read_text())
    assert first["code"] == 75 and "SIGUSR2" in first["traceback"]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
