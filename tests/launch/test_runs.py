"""status, logs, cancel and sync from a run's files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extes_train.errors import UserError
from launch import run_state, runs


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, a failed one, one that stopped."""
    monkeypatch.setattr(run_state, "slurm_reachable", lambda: False)
    for name in ("finished", "failed", "stopped"):
        run = tmp_path / name
        (run / "logs" / "exit").mkdir(parents=True)
        (run / "config.yaml").write_text("optim: {max_steps: 20}\n")
        lines = [{"step": step, "loss": 2 / step, "tokens_per_s": 1500.0, "seconds": 0.5} for step in range(1, 6)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
        (run / "logs" / "rank-0.log").write_text(f"hello from {name}\n")
    (tmp_path / "finished" / "model").mkdir()
    (tmp_path / "finished" / "cost.json").write_text("{}")
    record = {"rank": 1, "code": 1, "traceback": "Traceback …\nValueError: no good", "time": 1.0}
    (tmp_path / "failed" / "logs" / "exit" / "rank-1.json").write_text(json.dumps(record))
    return tmp_path


def test_an_interrupted_run_has_not_failed(outputs: Path) -> None:
    record = {"rank": 0, "code": 130, "traceback": "stopped by SIGINT at step 5", "time": 1.0}
    (outputs / "stopped" / "logs" / "exit" / "rank-0.json").write_text(json.dumps(record))
    assert run_state.file_state(outputs / "stopped") == "stopped"


def test_status_tells_state_step_loss_and_the_last_error(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.status([str(outputs)]) == 0
    rows = capsys.readouterr().out.splitlines()
    table = {row.split()[0]: row.split()[1:] for row in rows if not row.startswith(" ")}
    assert table["finished"][:3] == ["finished", "5/20", "0.4000"]
    assert table["failed"][0] == "failed" and table["stopped"][0] == "stopped"
    assert rows[rows.index(next(row for row in rows if row.startswith("failed"))) + 1].strip() == "ValueError: no good"


def test_status_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        runs.status([str(tmp_path)])


def test_logs_by_rank(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.logs([str(outputs / "failed")]) == 0
    assert "hello from failed" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no such log; ranks with one: 0"):
        runs.logs([str(outputs / "failed"), "--rank", "7"])
    with pytest.raises(UserError, match="needs a number"):
        runs.logs([str(outputs / "failed"), "--rank"])


def test_following_a_run_of_nobody_ends(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.logs([str(outputs / "failed"), "-f"]) == 0
    assert "hello from failed" in capsys.readouterr().out


def test_cancel_interrupts_the_workers_of_this_run_only(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import time; time.sleep(60)"
    mine, other = (
        subprocess.Popen([sys.executable, "-c", code, "extes_train.train", f"run_dir={outputs / name}"])
        for name in ("stopped", "failed")
    )
    try:
        time.sleep(0.3)
        assert [process.pid for process in run_state.processes_of(outputs / "stopped")] == [mine.pid]
        assert runs.cancel([str(outputs / "stopped")]) == 0
        assert f"process {mine.pid} told to stop" in capsys.readouterr().out
        assert mine.wait(timeout=10) != 0
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_wrong_words_are_told(outputs: Path) -> None:
    with pytest.raises(UserError, match="one too many"):
        runs.cancel(["a", "b"])
    with pytest.raises(UserError, match="no such option"):
        runs.status(["--all"])
    with pytest.raises(UserError, match="no such directory"):
        runs.logs([str(outputs / "nowhere")])


def test_sync_sends_what_was_not_sent(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr("subprocess.call", lambda words: called.append(words) or 0)
    monkeypatch.setattr(runs, "wandb_key_present", lambda: True)
    assert runs.sync([str(outputs)]) == 0
    assert "no offline wandb records" in capsys.readouterr().out
    for name, sent in (("one", False), ("two", True)):
        folder = outputs / "finished" / "wandb" / f"offline-run-{name}"
        folder.mkdir(parents=True)
        (folder / f"run-{name}.wandb").touch()
        if sent:
            (folder / f"run-{name}.wandb.synced").touch()
    assert runs.sync([str(outputs)]) == 0
    assert [words[-1] for words in called] == [str(outputs / "finished" / "wandb" / "offline-run-one")]
    options = [word for word in called[0] if word.startswith("--")]
    wandb_help = subprocess.run([sys.executable, "-m", "wandb", "sync", "--help"], capture_output=True, text=True)
    assert wandb_help.returncode == 0 and all(option in wandb_help.stdout for option in options)
    monkeypatch.setattr(runs, "wandb_key_present", lambda: False)
    with pytest.raises(UserError, match="set WANDB_API_KEY"):
        runs.sync([str(outputs)])


def test_the_error_shown_is_the_first_ranks_own(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "exit"
    folder.mkdir(parents=True)

    def leave(rank: int, code: int, time: float, text: str) -> None:
        record = {"rank": rank, "code": code, "time": time, "traceback": text}
        (folder / f"rank-{rank}.json").write_text(json.dumps(record))

    leave(1, 130, 1.0, "[rank 1 on a] stopped at step 4")
    leave(0, 130, 2.0, "stopped at step 4")
    assert run_state.last_error(tmp_path) == "stopped at step 4"
    leave(1, 1, 1.0, "Traceback …\nValueError: the cause")
    assert run_state.last_error(tmp_path) == "ValueError: the cause"
