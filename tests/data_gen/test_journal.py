"""The journal: append-only, one writer, torn tails mended, foreign and damaged ones refused."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from data_gen.journal import Journal, differing, read_journal
from extes_train.errors import RunDirError

SETTINGS = {"generate": {"seed": 1, "lag": 8}}


def written(path: Path, number: int) -> None:
    with Journal(path, "generate", SETTINGS, fsync_every=2) as journal:
        for i in range(number):
            span = journal.append({"kind": "reply", "index": i, "text": "ä" * i})
            assert journal.read(span)["index"] == i


def test_records_come_back_after_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, 5)
    whole = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"kind": "reply", "ind')
    with Journal(path, "generate", SETTINGS) as journal:
        assert [record["index"] for _, record in journal.records()] == [0, 1, 2, 3, 4]
        assert path.read_bytes() == whole
        span = journal.append({"kind": "reply", "index": 5})
        assert journal.read(span) == {"kind": "reply", "index": 5}
    assert [r.get("index") for r in read_journal(path)] == [None, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_any_cut_loses_only_the_last_record(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, 5)
    os.truncate(path, path.stat().st_size - cut)
    with Journal(path, "generate", SETTINGS) as journal:
        assert [record["index"] for _, record in journal.records()] == [0, 1, 2, 3]


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, 3)
    lines = path.read_bytes().split(b"\n")
    lines[2] = b"\0" * 20
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    with (
        pytest.raises(RunDirError, match=r"journal\.jsonl:3: no journal record, but records follow"),
        Journal(path, "generate", SETTINGS),
    ):
        pass
    assert path.read_bytes() == before


def test_a_journal_of_other_settings_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, 1)
    with (
        pytest.raises(RunDirError, match=r"generate.lag: 8, now 9"),
        Journal(path, "generate", {"generate": {"seed": 1, "lag": 9}}),
    ):
        pass
    with pytest.raises(RunDirError, match="not a journal of `extes inpaint`"), Journal(path, "inpaint", SETTINGS):
        pass
    assert differing({"a": {"b": 1}}, {"a": {"b": 1}, "c": 2}) == ["c: null, now 2"]


def test_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    refused = pytest.raises(RunDirError, match="another process is writing")
    with Journal(path, "generate", SETTINGS), refused, Journal(path, "generate", SETTINGS):
        pass
    with Journal(path, "generate", SETTINGS):
        pass


def test_a_full_disk_is_told_and_leaves_no_half_record(tmp_path: Path) -> None:
    """The kernel writes what still fits, then refuses: here at a limit on the file's size."""
    path = tmp_path / "journal.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path, "generate", SETTINGS) as journal:
        journal.append({"kind": "reply", "index": 0})
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
        try:
            with pytest.raises(RunDirError, match="File too large; what is journalled is kept"):
                journal.append({"kind": "reply", "index": 1})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [json.loads(line).get("index") for line in path.read_text().splitlines()] == [None, 0]
