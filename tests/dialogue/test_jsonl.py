"""Files of dialogues: what is written is read, and faults are found at their line."""

from __future__ import annotations

import json

import pytest

from extes_train.dialogue.jsonl import data_digest, dialogue_line, iterate_lines, read_dialogues, write_dialogues
from extes_train.dialogue.schema import Turn, make_dialogue
from extes_train.errors import DataError


def some(count):
    return [
        make_dialogue("", f"Nr. {i}", [Turn("seeker", "Hë\u2028llo"), Turn("supporter", f"Hi\n{i}")])
        for i in range(count)
    ]


def test_written_is_read(tmp_path):
    path = tmp_path / "deep" / "dialogues.jsonl"
    write_dialogues(path, some(3))
    assert read_dialogues(path) == some(3)
    assert path.read_bytes().count(b"\n") == 3
    assert [p.name for p in path.parent.iterdir()] == ["dialogues.jsonl"]
    assert len(data_digest(path)) == 64


def test_mark_blank_lines_and_windows_ends(tmp_path):
    path = tmp_path / "d.jsonl"
    lines = [dialogue_line(d).rstrip("\n") for d in some(2)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    assert read_dialogues(path) == some(2)
    assert [where.rpartition(":")[2] for where, _ in iterate_lines(path)] == ["1", "3"]


def test_a_torn_line_is_named(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(dialogue_line(some(1)[0]) + "\n" + '{"schema": 1, "id": ')
    with pytest.raises(DataError, match=r"d\.jsonl:3: no JSON: Expecting value at column \d+"):
        read_dialogues(path)


def test_repeated_id(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(dialogue_line(some(1)[0]) * 2)
    with pytest.raises(DataError, match=r"d\.jsonl:2: id: .* is already at .*d\.jsonl:1"):
        read_dialogues(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_dialogues(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        read_dialogues(tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(DataError, match="holds no dialogue"):
        read_dialogues(empty)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.jsonl:1: byte 7 is no UTF-8"):
        read_dialogues(latin)
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([1], indent=1))
    with pytest.raises(DataError, match="extes import"):
        read_dialogues(listed)
