"""JSON found in what models really send."""

from __future__ import annotations

import pytest

from data_gen.teacher.structured import is_refusal, mend_messages, parse_json, response_format

GOOD = '{"turns": [{"speaker": "seeker", "text": "It\'s \\"over\\", she said."}], "n": [1, 2]}'
VALUE = {"turns": [{"speaker": "seeker", "text": 'It\'s "over", she said.'}], "n": [1, 2]}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here you are:\n\n```\n{GOOD}\n```\nTell me if you want {{more}}!",
        f"Sure! {GOOD} Hope that helps.",
        f"<think>A list like [1, 2]? {{no}}</think>\n{GOOD}",
        GOOD.replace("]}", ",],}").replace("[1", "[ 1").replace(",],}],", "}],"),
        "{'turns': [{'speaker': 'seeker', 'text': 'It\\'s \"over\", she said.'}], 'n': [1, 2,],}",
        "{'turns': [{'speaker': 'seeker', 'text': 'It's \"over\", she said.'}], 'n': [1, 2]}",
    ],
)
def test_readable(text: str) -> None:
    assert parse_json(text) == VALUE


@pytest.mark.parametrize("text", ["", "no JSON at all", GOOD[:-20], GOOD[:30], '"just a string"', "12", "{not: json}"])
def test_unreadable(text: str) -> None:
    assert parse_json(text) is None


def test_other_mends() -> None:
    assert parse_json('{"a": "line one\nline two", "b": None, "c": True}') == {
        "a": "line one\nline two",
        "b": None,
        "c": True,
    }
    assert parse_json('[{"a": ", ]"}, ]') == [{"a": ", ]"}]


def test_refusals_are_told_from_garbage() -> None:
    assert is_refusal("I'm sorry, but I can't help with that.") and is_refusal("I cannot write this.")
    assert not is_refusal("Sure, here is the dialogue") and not is_refusal('{"text": "I can\'t sleep"}')


def test_request_forms() -> None:
    assert response_format({"type": "object"})["json_schema"]["schema"] == {"type": "object"}
    messages = mend_messages([{"role": "user", "content": "x"}], "broken")
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
