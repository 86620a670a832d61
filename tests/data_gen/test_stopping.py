"""A run that is told to stop: one line, exit code 130, and the same command goes on to the same bytes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_gen.config import FaultsConfig, GenerateConfig, ServeConfig, TeacherConfig
from data_gen.environment import child_environment
from data_gen.generate import generate
from data_gen.output import write_jsonl
from data_gen.progress import Progress
from data_gen.teacher.serve import background_server
from extes_train.errors import RunDirError

CHILD = """
import sys
from data_gen.config import GenerateConfig, TeacherConfig
from data_gen.generate import generate
from data_gen.progress import Progress
from extes_train.errors import Interrupted
print("begin", flush=True)
try:
    config = GenerateConfig(out=sys.argv[1], num_dialogues=200, sides={"train": 1.0})
    generate(config, TeacherConfig(base_url=sys.argv[2], concurrency=4), Progress(enabled=False))
except Interrupted as stopped:
    print(stopped)
    sys.exit(stopped.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_one_line(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    with background_server(ServeConfig(port=0, faults=FaultsConfig(latency_s=0.2))) as url:
        command = [sys.executable, "-c", CHILD, str(out), url]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment())
        assert child.stdout is not None and child.stdout.readline() == b"begin\n"
        while not (out / "journal.jsonl").exists() or (out / "journal.jsonl").read_bytes().count(b"\n") < 5:
            assert child.poll() is None
        child.send_signal(number)
        said, errors = child.communicate(timeout=60)
    assert child.returncode == 130 and said.endswith(b"has a journal: the same command goes on\n")
    assert b"Traceback" not in errors and not (out / "dialogues.jsonl").exists()


def test_a_folder_that_is_removed_meanwhile_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(GenerateConfig(out=str(out), num_dialogues=3), TeacherConfig(), Progress(enabled=False))
    shutil.rmtree(out)
    with pytest.raises(RunDirError, match="the folder was removed while the run wrote to it"):
        write_jsonl(out / "dialogues.jsonl", [{}])
