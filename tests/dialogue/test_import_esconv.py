"""ESConv: real conversations without a loss, and both public layouts."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from extes_train.dialogue.importers import import_dialogues
from extes_train.dialogue.jsonl import read_dialogues, write_dialogues
from extes_train.dialogue.leak import check_leak
from extes_train.dialogue.schema import SEEKER
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import DataError

LINES = [
    {
        "problem_type": "job crisis",
        "emotion_type": "anxiety",
        "situation": "My job.",
        "survey_score": {"seeker": {"empathy": "5"}},
        "dialog": [
            {"speaker": "sys", "strategy": "Others", "text": "Hi "},
            {"speaker": "usr", "text": "Hello"},
            {"speaker": "usr", "text": " there"},
            {"speaker": "sys", "strategy": "Question", "text": "How?"},
            {"speaker": "sys", "strategy": "Reflection of feelings", "text": "You sound tired."},
        ],
    }
]
PUBLISHED = [
    {
        **LINES[0],
        "dialog": [
            {"speaker": "supporter", "annotation": {"strategy": "Others"}, "content": "Hi "},
            {"speaker": "seeker", "annotation": {}, "content": "Hello"},
            {"speaker": "seeker", "annotation": {"feedback": "5"}, "content": " there"},
            {"speaker": "supporter", "annotation": {"strategy": "Question"}, "content": "How?"},
            {
                "speaker": "supporter",
                "annotation": {"strategy": "Reflection of feelings"},
                "content": "You sound tired.",
            },
        ],
    }
]


def test_all_910_conversations_as_the_reference_reads_them(shared, tmp_path):
    path = shared / "data/esconv/train.jsonl"
    start = time.process_time()
    dialogues, summary = import_dialogues("esconv", path)
    assert time.process_time() - start < 2.0
    assert len(dialogues) == summary["records"] == 910
    assert summary["supporter speaks first"] == 488
    assert (
        summary["utterances"] - sum(len(d.turns) for d in dialogues)
        == summary["utterances joined to the same speaker's"]
    )
    assert not summary.refused
    labels: Counter[str] = Counter()
    for line, dialogue in zip(path.read_text().splitlines(), dialogues):
        merged: list[list[str]] = []
        for utterance in json.loads(line)["dialog"]:
            labels.update([utterance["strategy"]] if "strategy" in utterance else [])
            if merged and merged[-1][0] == utterance["speaker"]:
                merged[-1][1] += " " + utterance["text"].strip()
            else:
                merged.append([utterance["speaker"], utterance["text"].strip()])
        assert [("usr" if t.speaker == SEEKER else "sys", t.text) for t in dialogue.turns] == [tuple(m) for m in merged]
    assert {s.title for s in load_taxonomy("esconv").strategies.values()} == set(labels)
    assert {d.scenario for d in dialogues} <= set(load_taxonomy("esconv").scenarios)
    write_dialogues(tmp_path / "d.jsonl", dialogues)
    assert read_dialogues(tmp_path / "d.jsonl", load_taxonomy("esconv")) == dialogues
    check_leak({"train": dialogues, "valid": import_dialogues("esconv", shared / "data/esconv/valid.jsonl")[0]})


@pytest.mark.parametrize("records", [LINES, PUBLISHED])
@pytest.mark.parametrize("container", ["list", "lines"])
def test_both_layouts_give_the_same_dialogue(tmp_path, records, container):
    path = tmp_path / "esconv"
    text = json.dumps(records, indent=1) if container == "list" else "\n".join(json.dumps(r) for r in records)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (dialogue,), summary = import_dialogues("esconv", path)
    assert (dialogue.scenario, dialogue.situation) == ("job-crisis", "My job.")
    assert [(t.speaker, t.text, t.strategy) for t in dialogue.turns] == [
        ("supporter", "Hi", "others"),
        ("seeker", "Hello there", None),
        ("supporter", "How? You sound tired.", "reflection-of-feelings"),
    ]
    assert dialogue.provenance["joined_strategies"] == {"2": ["question", "reflection-of-feelings"]}
    assert dialogue.provenance["survey_score"] == {"seeker": {"empathy": "5"}}
    assert dialogue.provenance["emotion_type"] == "anxiety"
    assert dialogue.provenance.get("feedback") == (None if records is LINES else {"2": "5"})
    assert summary["utterances joined to the same speaker's"] == 2


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    path = tmp_path / "esconv.jsonl"
    odd = [
        {**LINES[0], "dialog": [{"speaker": "sys", "strategy": "Questions", "text": "a"}]},
        {**LINES[0], "dialog": [{"speaker": "me", "text": "a"}]},
        {**LINES[0], "dialog": [{"speaker": "usr", "text": "a"}]},
        {"content": []},
        [],
    ]
    path.write_text("\n".join(json.dumps(r) for r in [*LINES, *odd, *LINES]))
    dialogues, summary = import_dialogues("esconv", path)
    assert len(dialogues) == 1 and summary["identical dialogues left out"] == 1 and summary["records"] == 7
    expected = [
        'esconv.jsonl:2: dialog[0].strategy: got "Questions" (did you mean "Question"?)',
        "esconv.jsonl:3: dialog[0].speaker: got 'me'",
        "esconv.jsonl:4: turns: no supporter turn",
        "esconv.jsonl:5: dialog: expected a list",
        "esconv.jsonl:6: expected an object, got list",
    ]
    assert len(summary.refused) == 5
    assert all(part in reason for part, reason in zip(expected, summary.refused))


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1},\n {"b"]')
    with pytest.raises(DataError, match=r"x\.json:2: no JSON"):
        import_dialogues("esconv", path)
    path.write_text('[{"a": 1}]')
    with pytest.raises(
        DataError, match=r"no dialogue of format esconv in it \(formats: .*\)\n(.|\n)*record 0: dialog: expected a list"
    ):
        import_dialogues("esconv", path)
    with pytest.raises(DataError, match=r'import format "esconf": .*did you mean "esconv"'):
        import_dialogues("esconf", path)
    with pytest.raises(DataError, match="no such file"):
        import_dialogues("esconv", tmp_path / "absent")
