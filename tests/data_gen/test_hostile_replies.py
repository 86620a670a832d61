"""Replies that no teacher should send: they are counted, and nothing breaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web
from teacher_support import serving_app

from data_gen.config import GenerateConfig, InpaintConfig, TeacherConfig
from data_gen.filters.chain import Rejection, read_reply
from data_gen.generate import run_generate
from data_gen.inpaint import run_inpaint
from data_gen.merge import merge_shards
from data_gen.teacher.offline.teacher import reply
from data_gen.teacher.structured import parse_json
from extes_train.dialogue.jsonl import read_dialogues
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import DataError


def say(change):
    """An endpoint that says what the offline teacher says, changed."""

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        text = change(json.loads(reply(body["messages"], body.get("seed") or 0)))
        message = {"role": "assistant", "content": text}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    return app


def with_turn(value: dict, **keys: object) -> str:
    value["turns"][2] |= keys
    return json.dumps(value)


@pytest.mark.parametrize("text", ["half \ud83d", "nul \x00", "red \x1b[31m", ""])
def test_what_cannot_be_written_is_no_text(text: str) -> None:
    turns = [
        {"speaker": "seeker", "text": "hello"},
        {"speaker": "supporter", "text": text, "strategy": "clarification"},
    ]
    found = read_reply({"situation": "s", "turns": turns}, "work-related-stress-and-burnout", load_taxonomy("extes"))
    assert isinstance(found, Rejection) and found.reason == "schema"
    turns[1]["text"] = "one\ntwo\tthree é 😀"
    assert not isinstance(
        read_reply({"situation": "s", "turns": turns}, "work-related-stress-and-burnout", load_taxonomy("extes")),
        Rejection,
    )
    found = read_reply({"situation": text, "turns": turns}, "work-related-stress-and-burnout", load_taxonomy("extes"))
    assert isinstance(found, Rejection) and found.reason == "schema"


async def test_broken_tags_and_line_separators_end_in_files_that_merge(tmp_path: Path) -> None:
    def change(value: dict) -> str:
        return with_turn(value, text=value["turns"][2]["text"] + " well\u2028so\x85then", tags=["\ud83d", "resistance"])

    out = tmp_path / "out"
    async with serving_app(say(change)) as url:
        result = await run_generate(GenerateConfig(out=str(out), num_dialogues=4), TeacherConfig(base_url=url))
    assert result.accepted == 4
    (out / "quarantine.jsonl").write_bytes((out / "dialogues.jsonl").read_bytes().replace(b"\n", b"\n", 1))
    assert all(d.turns[2].tags == ["resistance"] for d in read_dialogues(out / "dialogues.jsonl"))
    merged = merge_shards([out], tmp_path / "merged")
    assert merged.kept == 4 and len((tmp_path / "merged" / "quarantine.jsonl").read_bytes().split(b"\n")) == 5
    (out / "seeds.jsonl").write_text("{no json\n")
    with pytest.raises(DataError, match=r"seeds\.jsonl:1: no JSON"):
        merge_shards([out], tmp_path / "again")


async def test_far_too_many_alternatives_are_surplus(tmp_path: Path) -> None:
    source = tmp_path / "source"
    async with serving_app(say(json.dumps)) as url:
        await run_generate(GenerateConfig(out=str(source), num_dialogues=3), TeacherConfig(base_url=url))

    def change(value: dict) -> str:
        value["alternatives"][0]["probability"] = 10**400
        return json.dumps({"alternatives": value["alternatives"] * 40})

    config = InpaintConfig(input=str(source), out=str(tmp_path / "out"), verbalized=True)
    async with serving_app(say(change)) as url:
        result = await run_inpaint(config, TeacherConfig(base_url=url))
    counts = result.card["counts"]
    assert counts["alternatives_asked"] == counts["alternatives_kept"] + counts["alternatives_rejected"]
    assert counts["rejected_by_reason"]["surplus"] > 100 and counts["alternatives_kept"] > 0
    assert "Infinity" not in (tmp_path / "out" / "dialogues.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["{'" * 60_000, '{"a": ' + "'" * 100_000, "[" * 5_000_000, "{'a': x\"y' " * 10_000])
def test_a_long_reply_without_json_is_soon_given_up(text: str) -> None:
    assert parse_json(text) is None  # was quadratic: hours
