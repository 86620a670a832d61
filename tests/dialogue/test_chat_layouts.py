"""Messages, ShareGPT and Alpaca: what goes out comes back."""

from __future__ import annotations

import json

import pytest

from extes_train.dialogue.exporters import export_dialogues
from extes_train.dialogue.importers import import_dialogues
from extes_train.dialogue.schema import Alternative, Turn, make_dialogue
from extes_train.errors import DataError


def rich():
    turns = [
        Turn("supporter", "Welcome.", "others"),
        Turn("seeker", "Hm.", tags=["resistance"]),
        Turn(
            "supporter",
            "Tell me…",
            "clarification",
            [Alternative("Go on.", "affirmation", {"seed": 3}), Alternative("Ah")],
        ),
    ]
    return [
        make_dialogue(
            "anxiety-and-panic", "Exam\nweek.", turns, {"source": "generated", "exemplars": ["a"], "round": 2}
        ),
        make_dialogue("", "", [Turn("seeker", "Line\u2028end"), Turn("supporter", "Yes")], {}),
    ]


@pytest.mark.parametrize("format", ["messages", "sharegpt"])
def test_round_trip(tmp_path, format):
    path = tmp_path / "out.jsonl"
    assert export_dialogues(format, rich(), path) == {"dialogues": 2, "records": 2}
    dialogues, summary = import_dialogues(format, path)
    assert dialogues == rich()
    assert summary["restored from the column extes"] == 2


def test_real_conversations_make_the_round_trip(shared, tmp_path):
    dialogues, _ = import_dialogues("esconv", shared / "data/esconv/valid.jsonl")
    for format in ("messages", "sharegpt"):
        export_dialogues(format, dialogues, tmp_path / format)
        assert import_dialogues(format, tmp_path / format)[0] == dialogues


@pytest.mark.parametrize("format", ["messages", "sharegpt"])
def test_edited_messages_need_the_column_removed(tmp_path, format):
    path = tmp_path / "out.jsonl"
    export_dialogues(format, rich()[:1], path)
    path.write_text(path.read_text().replace("Welcome.", "Hello."))
    with pytest.raises(DataError, match="remove it to import the edited messages"):
        import_dialogues(format, path)
    record = json.loads(path.read_text())
    record["extes"] = json.dumps({"turns": []})
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="has 0 turns and the messages have 3"):
        import_dialogues(format, path)
    del record["extes"]
    path.write_text(json.dumps(record))
    (dialogue,), _ = import_dialogues(format, path)
    assert [t.text for t in dialogue.turns] == ["Hello.", "Hm.", "Tell me…"] and dialogue.scenario == ""


def test_foreign_messages(tmp_path):
    path = tmp_path / "m.json"
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "user", "content": "you"},
        {"role": "assistant", "content": "Hello"},
    ]
    tool = [{"role": "tool", "content": "x"}]
    image = [{"role": "user", "content": [{"type": "image_url"}]}]
    path.write_text(json.dumps([{"messages": messages, "id": 7}, {"messages": tool}, {"messages": image}, {"x": 1}]))
    (dialogue,), summary = import_dialogues("messages", path)
    assert [(t.speaker, t.text) for t in dialogue.turns] == [("seeker", "Hi you"), ("supporter", "Hello")]
    assert dialogue.provenance == {"source": "messages", "system": "Be kind.", "source_id": 7}
    expected = ["messages[0].role: got 'tool', allowed: user", "messages[0].content[0]: only parts of type text"]
    assert all(
        part in reason for part, reason in zip([*expected, "messages: expected a list"], summary.refused, strict=True)
    )


def test_foreign_sharegpt(tmp_path):
    path = tmp_path / "s.jsonl"
    items = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}, {"from": "human", "value": " "}]
    path.write_text(json.dumps({"system": "Be kind.", "conversations": items}))
    (dialogue,), summary = import_dialogues("sharegpt", path)
    assert [(t.speaker, t.text) for t in dialogue.turns] == [("seeker", "Hi"), ("supporter", "Hello")]
    assert dialogue.provenance["system"] == "Be kind."
    assert summary["empty utterances left out"] == 1


def test_messages_are_pure_for_other_trainers(tmp_path):
    export_dialogues("messages", rich(), tmp_path / "m.jsonl")
    record = json.loads((tmp_path / "m.jsonl").read_text().split("\n")[0])
    assert [sorted(message) for message in record["messages"]] == [["content", "role"]] * 3
    assert [message["role"] for message in record["messages"]] == ["assistant", "user", "assistant"]
    assert isinstance(record["extes"], str)


def test_alpaca_has_a_record_per_response(tmp_path):
    counts = export_dialogues("alpaca", rich(), tmp_path / "a.jsonl")
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().split("\n") if line]
    assert counts["records"] == len(records) == 5
    assert [(r["instruction"], r["output"], r["history"]) for r in records[:4]] == [
        ("", "Welcome.", []),
        ("Hm.", "Tell me…", [["", "Welcome."]]),
        ("Hm.", "Go on.", [["", "Welcome."]]),
        ("Hm.", "Ah", [["", "Welcome."]]),
    ]


def test_unknown_format(tmp_path):
    with pytest.raises(DataError, match=r'did you mean "alpaca"'):
        export_dialogues("alpacca", rich(), tmp_path / "x")
