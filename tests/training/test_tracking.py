"""metrics.jsonl is written whatever wandb does."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from extes_train.training.config import TrackerConfig
from extes_train.training.run_dir import RunDir
from extes_train.training.tracking import Tracker, WandbFeed, wandb_arguments, wandb_id


def test_the_id_is_stable(tmp_path: Path) -> None:
    assert wandb_id(RunDir(tmp_path)) == wandb_id(RunDir(tmp_path))


def test_online_without_a_key_goes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = TrackerConfig(name="wandb")
    assert wandb_arguments(RunDir(tmp_path), config, {})["mode"] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    arguments = wandb_arguments(RunDir(tmp_path), config, {})
    assert arguments["mode"] == "online"
    assert "k" * 40 not in json.dumps(arguments)


@pytest.mark.parametrize(
    "program",
    ["raise SystemExit(3)", "import time; time.sleep(60)", "import sys; sys.stdin.readline(); sys.stdin.close()"],
    ids=["fails at once", "hangs", "dies after the first record"],
)
def test_a_broken_wandb_costs_nothing(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    feed = WandbFeed({}, [sys.executable, "-c", program])
    start = time.monotonic()
    for step in range(20_000):  # more than the pipe and the queue hold
        feed.put({"step": step, "values": {"loss": 1.0}})
    assert time.monotonic() - start < 2.0
    feed.close(timeout_s=1.0)
    assert time.monotonic() - start < 6.0
    assert feed.process is not None and feed.process.poll() is not None
    assert "metrics.jsonl" in capfd.readouterr().err


def test_records_reach_the_process_in_order(tmp_path: Path) -> None:
    out = tmp_path / "received"
    feed = WandbFeed(
        {"id": "x"}, [sys.executable, "-c", f"import sys; open({str(out)!r}, 'w').write(sys.stdin.read())"]
    )
    feed.put({"step": 1, "values": {}})
    feed.close(timeout_s=20.0)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [{"id": "x"}, {"step": 1, "values": {}}]
    assert feed.dropped == 0


def test_offline_records_are_really_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    tracker = Tracker(run, TrackerConfig(name="offline"), {"seed": 1})
    tracker.log_step({"step": 1, "loss": 2.5})
    tracker.close()
    assert tracker.wandb is not None and tracker.wandb.process is not None
    assert tracker.wandb.process.returncode == 0
    assert json.loads(run.metrics.read_text()) == {"step": 1, "loss": 2.5}
    assert list(run.path.glob(f"wandb/offline-run-*-{wandb_id(run)}/*.wandb")), "wandb's own file"
