"""Every check of a dialogue names the place, the field, the value and what is allowed."""

from __future__ import annotations

import copy
import hashlib
import json

import pytest

from extes_train.dialogue.schema import (
    Alternative,
    Turn,
    dialogue_from_dict,
    dialogue_id,
    dialogue_to_dict,
    make_dialogue,
)
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import DataError


def example():
    turns = [
        Turn("seeker", "We broke up.", tags=["resistance"]),
        Turn("supporter", "I am sorry.", "empathetic-statements", [Alternative("Oh no.", "affirmation", {"seed": 1})]),
    ]
    return make_dialogue("breakups-or-divorce", "Ana, 24.", turns, {"source": "generated", "side": "train"})


def test_the_id_is_the_formula_of_the_contract():
    dialogue = example()
    content = {
        "scenario": "breakups-or-divorce",
        "situation": "Ana, 24.",
        "turns": [
            {"speaker": "seeker", "strategy": None, "text": "We broke up."},
            {"speaker": "supporter", "strategy": "empathetic-statements", "text": "I am sorry."},
        ],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert dialogue.id == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_id_ignores_alternatives_and_the_form_of_unicode():
    dialogue = example()
    dialogue.turns[1].alternatives = []
    assert dialogue_id(dialogue.scenario, dialogue.situation, dialogue.turns) == dialogue.id
    composed = dialogue_id("x", "caf\u00e9", [Turn("supporter", "caf\u00e9")])
    assert composed == dialogue_id("x", "cafe\u0301", [Turn("supporter", "cafe\u0301")])
    assert composed != dialogue_id("x", "cafe", [Turn("supporter", "caf\u00e9")])


def test_round_trip_and_key_order():
    value = dialogue_to_dict(example())
    assert list(value) == ["schema", "id", "scenario", "situation", "turns", "provenance"]
    assert list(value["turns"][0]) == ["speaker", "text", "tags"]
    assert list(value["turns"][1]) == ["speaker", "text", "strategy", "alternatives"]
    assert dialogue_from_dict(value, "f:1", load_taxonomy("extes")) == example()


def edited(path, new):
    value = copy.deepcopy(dialogue_to_dict(example()))
    target = value
    for key in path[:-1]:
        target = target[key]
    if new is KeyError:
        del target[path[-1]]
    else:
        target[path[-1]] = new
    return value


FAULTS = [
    (["schema"], 2, r"schema: got 2, this version reads 1"),
    (["id"], "0" * 16, r'id: got "0000000000000000", but this content has the id "[0-9a-f]{16}".*make_dialogue'),
    (
        ["scenario"],
        "breakup-or-divorce",
        r'scenario: got "breakup-or-divorce" \(did you mean "breakups-or-divorce"\?\)',
    ),
    (["scenario"], KeyError, r"scenario: missing"),
    (["situation"], 3, r"situation: got 3, expected a string"),
    (["turns"], [], r"turns: empty"),
    (["turns"], {}, r"turns: got \{\}, expected a list"),
    (["turns", 0], "hi", r'turns\[0\]: got "hi", expected an object'),
    (["turns", 0, "speaker"], "seker", r'turns\[0\].speaker: got "seker", allowed: seeker, supporter \(did you mean'),
    (["turns", 0, "speaker"], "supporter", r"turns\[0\].tags: a supporter turn has none"),
    (["turns", 1, "speaker"], "seeker", r"turns\[1\].speaker: seeker follows seeker"),
    (["turns", 0, "text"], " ", r'turns\[0\].text: got " ", expected some text'),
    (["turns", 0, "text"], "a\ud800", r"turns\[0\].text: holds half of a surrogate pair"),
    (["turns", 0, "strategy"], "affirmation", r"turns\[0\].strategy: a seeker turn has none"),
    (
        ["turns", 1, "strategy"],
        "affirmations",
        r'turns\[1\].strategy: got "affirmations" \(did you mean "affirmation"\?\)',
    ),
    (["turns", 1, "strategy"], "question", r"turns\[1\].strategy: .*belongs to taxonomy esconv: data.taxonomy=esconv"),
    (["turns", 1, "strategy"], ["affirmation"], r'turns\[1\].strategy: got \["affirmation"\], expected a string'),
    (["turns", 1, "alternative"], [], r'turns\[1\].alternative: no such key \(did you mean "alternatives"\?\)'),
    (["turns", 1, "alternatives", 0, "strategy"], "x", r'turns\[1\].alternatives\[0\].strategy: got "x"'),
    (["turns", 1, "alternatives", 0, "text"], "", r'turns\[1\].alternatives\[0\].text: got ""'),
    (
        ["provenance", "side"],
        "training",
        r'provenance.side: got "training", allowed: train, valid, test, base \(did you',
    ),
    (["provenance", "exemplars"], "abc", r'provenance.exemplars: got "abc", expected a list'),
    (["reason"], "crisis", r"reason: this is a quarantined record"),
]


@pytest.mark.parametrize("path, new, message", FAULTS)
def test_faults(path, new, message):
    with pytest.raises(DataError, match=r"^data\.jsonl:7: " + message):
        dialogue_from_dict(edited(path, new), "data.jsonl:7", load_taxonomy("extes"))


def test_another_layout_is_named_so():
    with pytest.raises(DataError, match=r"^f:1: no dialogue of ours \(its keys: dialog, topic\); `extes import` reads"):
        dialogue_from_dict({"topic": 1, "dialog": []}, "f:1")


def test_no_supporter_turn():
    value = dialogue_to_dict(make_dialogue("anxiety-and-panic", "", [Turn("seeker", "Hello?")]))
    with pytest.raises(DataError, match="no supporter turn among 1"):
        dialogue_from_dict(value, "f:1")


def test_quarantined_records_carry_a_reason():
    value = {**dialogue_to_dict(example()), "reason": "crisis"}
    assert dialogue_from_dict(value, "f:1", quarantined=True).id == example().id
