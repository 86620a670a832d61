"""A run that is tracked: wandb's own offline record holds the counters, the card's numbers, its tables and plots."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from data_gen.config import GenerateConfig, TeacherConfig
from data_gen.generate import generate
from data_gen.tracking import Feed
from extes_train.training.tracking import WandbFeed
from launch.main import main

BLOCK_BYTES, HEADER_BYTES = 32768, 7


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    data, at, piece = path.read_bytes(), HEADER_BYTES, b""
    assert data.startswith(b":W&B")
    while at + HEADER_BYTES <= len(data):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEADER_BYTES:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        piece += data[at + HEADER_BYTES : at + HEADER_BYTES + length]
        at += HEADER_BYTES + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(piece)
            yield record
            piece = b""


def recorded(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]], Path, Any]:
    """Summary and history (nested keys joined by /), folder and settings of the newest offline run below `out`."""
    (path,) = sorted(out.glob("wandb/offline-run-*/*.wandb"))[-1:]
    summary: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    run = None
    for record in wandb_records(path):
        if record.HasField("run"):
            run = record.run
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("history"):
            items = record.history.item
            history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return summary, history, path.parent, run


def arguments(out: Path, *more: str) -> list[str]:
    return ["generate", f"generate.out={out}", "generate.num_dialogues=8", "generate.round_size=4", *more]


def test_wandb_has_the_card_and_its_plots(tmp_path: Path, teacher_url: str) -> None:
    where = ["teacher=http", f"teacher.base_url={teacher_url}", "teacher.model=offline-teacher"]
    prices = ["teacher.price_per_million_completion_tokens=2.0"]
    assert main(arguments(tmp_path, *where, *prices, "tracker=offline", "tracker.project=mine")) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    summary, history, folder, run = recorded(tmp_path)
    assert run.project == "mine" and run.run_id == (tmp_path / "wandb_id").read_text().strip()
    assert {"generate", "teacher"} <= {item.key for item in run.config.update}
    for group in ("counts", "measures", "teacher"):
        for key, value in card[group].items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert summary[f"{group}/{key}"] == pytest.approx(value), key
    assert summary["counts/by_side/train"] == card["counts"]["by_side"]["train"]
    assert summary["stopped"] == "size" and summary["message"] == card["message"]
    for name in ("scenarios", "strategies", "rounds"):
        image, table = (folder / "files" / summary[f"{key}/path"] for key in (f"plots/{name}", name))
        assert image.read_bytes() == (tmp_path / f"{name}.png").read_bytes()
        found = json.loads(table.read_text())
        assert [dict(zip(found["columns"], row)) for row in found["data"]] == card[name]
    live = [entry for entry in history if "done" in entry]
    assert live[-1]["done"] == live[-1]["total"] == 8
    assert live[-1]["teacher/requests"] >= 8 and live[-1]["teacher/cost"] > 0 and live[-1]["acceptance"] > 0.2
    steps = [entry["_step"] for entry in history]
    assert steps == sorted(steps)


def test_nobody_is_told_unasked(tmp_path: Path, teacher_url: str) -> None:
    where = ["teacher=http", f"teacher.base_url={teacher_url}", "teacher.model=offline-teacher"]
    assert main(arguments(tmp_path, *where)) == 0
    assert not list(tmp_path.glob("wandb*"))


@pytest.mark.parametrize(
    "program",
    ["raise SystemExit(3)", "import sys; sys.stdin.readline(); sys.stdin.close(); raise SystemExit(1)"],
    ids=["fails at once", "dies after the first record"],
)
def test_a_broken_wandb_never_stops_a_run(
    program: str, tmp_path: Path, teacher: TeacherConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Feed:
        return WandbFeed({"id": "x"}, [sys.executable, "-c", program], record="card.json")

    start = time.monotonic()
    result = generate(GenerateConfig(out=str(tmp_path), num_dialogues=6), teacher, open_feed=broken)
    assert result.accepted == 6 and (tmp_path / "card.json").is_file()
    assert time.monotonic() - start < 25
    assert "card.json is complete" in capfd.readouterr().err


def test_what_a_feed_hears(tmp_path: Path, teacher: TeacherConfig) -> None:
    """Steps never go back, the end comes last, and the feed is closed also when the run stops with an error."""

    class Listener:
        def __init__(self) -> None:
            self.heard: list[Mapping[str, Any]] = []
            self.closed = 0

        def put(self, record: Mapping[str, Any]) -> None:
            self.heard.append(record)

        def close(self, timeout_s: float) -> None:
            self.closed += 1

    listener = Listener()
    config = GenerateConfig(out=str(tmp_path / "a"), num_dialogues=6)
    generate(config, teacher, open_feed=lambda: listener)
    assert [next(iter(record)) for record in listener.heard[-3:]] == ["summary", "tables", "images"]
    steps = [record["step"] for record in listener.heard if "values" in record]
    assert steps == sorted(steps) and steps[-1] >= 6 and listener.closed == 1
    unreachable = TeacherConfig(base_url="http://127.0.0.1:9/v1", max_attempts=1)
    with pytest.raises(Exception, match="cannot be reached"):
        generate(GenerateConfig(out=str(tmp_path / "b"), num_dialogues=6), unreachable, open_feed=lambda: listener)
    assert listener.closed == 2
