"""A worker's exit codes, and the record it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from extes_train.errors import ConfigError, Interrupted, Requeue, TrainingError
from extes_train.worker import outcome_of, write_exit_record


def raising(error: BaseException) -> Callable[[Sequence[str]], None]:
    def main(argv: Sequence[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ConfigError("optim.lr=0: must be greater than 0"), 2, "optim.lr=0: must be greater than 0"),
        (Requeue("checkpointed at step 4"), 75, "checkpointed at step 4"),
        (Interrupted("stopped at step 4"), 130, "stopped at step 4"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file", "/x/y"), 2, "/x/y: no such file; name a path that can be used"),
        (OSError(28, "No space left on device", "/x/y"), 2, "/x/y: no space left on device; free some space"),
        (TrainingError("the loss is nan"), 1, "the loss is nan"),
    ],
)
def test_what_is_expected_is_one_line(error: BaseException, code: int, shown: str) -> None:
    assert outcome_of(raising(error), []) == (code, shown)


def test_what_is_not_expected_shows_its_traceback_last() -> None:
    code, shown = outcome_of(raising(ZeroDivisionError("oh")), [])
    assert code == 1
    assert shown.strip().endswith("ZeroDivisionError: oh")
    assert outcome_of(lambda argv: None, []) == (0, "")


def test_a_lost_peer_is_a_consequence() -> None:
    error = RuntimeError("[/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:23240. This is typically …")
    code, shown = outcome_of(raising(error), [])
    assert code == 1 and "another rank has ended" in shown and "\n" not in shown


def test_the_record_says_rank_code_and_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTES_EXIT_RECORDS", str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    write_exit_record(75, "checkpointed")
    record = json.loads((tmp_path / "rank-3.json").read_text())
    assert (record["rank"], record["code"], record["traceback"]) == (3, 75, "checkpointed")


def test_the_process_ends_with_the_code_though_a_thread_hangs(root: Path) -> None:
    program = (
        "import threading, time\n"
        "from extes_train.errors import Requeue\nfrom extes_train.worker import run_worker\n"
        "def main(argv):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n    raise Requeue('again')\n"
        "run_worker(main, [])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (75, "extes: again\n")
