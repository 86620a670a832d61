"""Reading dialogues in the terminal, with verdicts that survive."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from extes_train.dialogue.jsonl import write_dialogues
from extes_train.dialogue.schema import Alternative, Dialogue, Turn, make_dialogue
from extes_train.errors import EXIT_USER, DataError
from launch.main import main
from launch.review import read_verdicts, render_dialogue, review


def dialogue(number: int) -> Dialogue:
    """A small one; scenarios alternate."""
    scenario = ("breakups-or-divorce", "job-crisis")[number % 2]
    others = [Alternative("Tell me more.", "offer-hope"), Alternative("Go on.")]
    turns = [
        Turn("seeker", f"I feel low, number {number}. " + "It goes on and on. " * 8, tags=["resistance"]),
        Turn("supporter", "I hear you.", "emotional-validation", others),
    ]
    return make_dialogue(scenario, "A long day.", turns, {"source": "test"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four dialogues."""
    path = tmp_path / "dialogues.jsonl"
    write_dialogues(path, [dialogue(number) for number in range(4)])
    return path


def in_terminal(root: Path, file: Path, answers: str) -> str:
    """`extes review FILE` in a real pseudo-terminal whose user types `answers`; what the screen showed."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "launch", "review", str(file)], cwd=root, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, answers.encode())
    shown = b""
    with contextlib.suppress(OSError):  # the terminal closes with its last user
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert child.wait(timeout=30) == 0, shown
    return shown.decode()


def test_a_page_has_everything_within_80_columns() -> None:
    page = render_dialogue(dialogue(1))
    assert max(map(len, page.splitlines())) <= 80
    for part in ("seeker [resistance]: I feel low, number 1.", "supporter (emotional-validation): I hear you."):
        assert part in page
    assert "  or (offer-hope): Tell me more." in page and "  or: Go on." in page


def test_without_a_terminal_it_only_prints(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert review([str(file), "--start", "1", "--count", "2"]) == 0
    shown = capsys.readouterr().out
    assert "number 1" in shown and "number 2" in shown and "number 0" not in shown and "number 3" not in shown
    assert not Path(f"{file}.review.jsonl").exists()


def test_verdicts_are_kept_and_not_asked_twice(file: Path, root: Path) -> None:
    shown = in_terminal(root, file, "k\nwhat?\nd\nq\n")
    assert "1 kept, 1 dropped" in shown and "number 3" not in shown
    shown = in_terminal(root, file, "s\nkeep\n")
    assert "number 0" not in shown and "number 2" in shown and "2 kept, 1 dropped" in shown
    ids = [dialogue(number).id for number in range(4)]
    assert read_verdicts(Path(f"{file}.review.jsonl")) == {ids[0]: "keep", ids[1]: "drop", ids[3]: "keep"}


def test_one_scenario(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    review([str(file), "--scenario", "job-crisis"])
    shown = capsys.readouterr().out
    assert shown.count("── ") == 2 and "number 1" in shown and "number 3" in shown


def test_bad_files(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"{file}.review.jsonl").write_text('{"id": "a", "verdict": "keep"}\nnonsense\n')
    with pytest.raises(DataError, match=r"review.jsonl:2: not a verdict"):
        review([str(file)])
    assert main(["review", str(file.parent / "none.jsonl")]) == EXIT_USER
    assert "none.jsonl" in capsys.readouterr().err
