"""`extes import`, `export` and `merge`: files in, files out, usage that helps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extes_train.dialogue.jsonl import read_dialogues
from extes_train.errors import EXIT_USER
from launch.exchange import EXPORT_FORMATS, IMPORT_FORMATS
from launch.main import main

MESSAGES = [
    {"messages": [
        {"role": "user", "content": f"I lost my job, and {number} bills are due."},
        {"role": "assistant", "content": "That is a lot at once. What worries you most?"},
    ]}
    for number in range(3)
]  # fmt: skip


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """Three conversations in OpenAI's layout."""
    path = tmp_path / "messages.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in MESSAGES))
    return path


def test_there_and_back(messages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "messages", str(messages), "-o", str(tmp_path / "d.jsonl")]) == 0
    assert "3 dialogues written" in capsys.readouterr().out
    read = read_dialogues(str(tmp_path / "d.jsonl"))
    assert [turn.speaker for turn in read[0].turns] == ["seeker", "supporter"]
    for name in EXPORT_FORMATS:
        out = tmp_path / f"{name}.jsonl"
        assert main(["export", "dialogues", name, str(tmp_path / "d.jsonl"), "-o", str(out)]) == 0
        assert "3 dialogues written" in capsys.readouterr().out and out.stat().st_size > 100
    again = tmp_path / "again.jsonl"
    assert main(["import", "messages", str(tmp_path / "messages.jsonl"), "-o", str(again)]) == 0
    assert [item.id for item in read_dialogues(str(again))] == [item.id for item in read]


@pytest.mark.parametrize(
    "words",
    [["import", "csv", "x", "-o", "y"], ["import", "esconv", "x"], ["export", "dialogues", "messages", "x"], ["merge"]],
)
def test_wrong_arguments_print_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == EXIT_USER
    assert f"usage: extes {words[0]}" in capsys.readouterr().err


def test_a_missing_file_is_the_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in IMPORT_FORMATS:
        assert main(["import", name, str(tmp_path / "none.json"), "-o", str(tmp_path / "o.jsonl")]) == EXIT_USER
        assert "none.json" in capsys.readouterr().err
    assert main(["export", "dialogues", "alpaca", str(tmp_path / "none.jsonl"), "-o", str(tmp_path / "o")]) == EXIT_USER
    assert not (tmp_path / "o.jsonl").exists()


def test_a_place_that_cannot_be_written_is_one_line(messages: Path, tmp_path: Path, capsys) -> None:
    for place in (tmp_path, messages / "below"):
        assert main(["import", "messages", str(messages), "-o", str(place)]) == EXIT_USER
        assert capsys.readouterr().err.count("\n") == 1


def test_a_file_of_another_layout_names_the_layouts(messages: Path, tmp_path: Path, capsys) -> None:
    assert main(["import", "sharegpt", str(messages), "-o", str(tmp_path / "o.jsonl")]) == EXIT_USER
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith("no dialogue of format sharegpt in it (formats: esconv, extes, messages, sharegpt)")
    assert len(told) == 4 and all("refused: " in line for line in told[1:])
