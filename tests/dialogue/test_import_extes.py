"""ExTES.json: every defect of the published file, mended and counted."""

from __future__ import annotations

import json

import pytest

from extes_train.dialogue.importers import import_dialogues
from extes_train.dialogue.importers.matching import match
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import DataError


def read(tmp_path, *records):
    path = tmp_path / "ExTES.json"
    path.write_text(json.dumps(list(records)))
    return import_dialogues("extes", path)


def record(*content, scene="Anxiety and Panic", **more):
    return {"scene": scene, "description": "Before an exam.", "content": list(content), **more}


def one(tmp_path, *content, **more):
    """Turns as (speaker's initial, text, strategy) and the summary of a record with this content."""
    (dialogue,), summary = read(tmp_path, record({"User": "Hello."}, *content, **more))
    return [(t.speaker[:2], t.text, t.strategy) for t in dialogue.turns[1:]], summary, dialogue


AI = {"AI": "I see.", "AI Strategy": "Emotional Validation"}
SEEN = ("su", "I see.", "emotional-validation")


def test_a_clean_record(tmp_path):
    turns, summary, dialogue = one(tmp_path, AI, {"User": "Yes."})
    assert turns == [SEEN, ("se", "Yes.", None)]
    assert (dialogue.scenario, dialogue.situation) == ("anxiety-and-panic", "Before an exam.")
    assert {name: count for name, count in summary.items() if count} == {"records": 1}


@pytest.mark.parametrize(
    "item, turns, counted",
    [
        (
            {"AI": "I see.", "AI Strategy": "Emotional Validation", "User": "Yes."},
            [SEEN, ("se", "Yes.", None)],
            "both User",
        ),
        ({"AI": {"text": "I see.", "AI Strategy": "Emotional Validation"}}, [SEEN], "were an object"),
        ({"AI": {"Emotional Validation": "I see."}}, [SEEN], "were an object"),
        ({"AI": ["I", "see."], "AI Strategy": "Emotional Validation"}, [SEEN], "were a list"),
        ({"AI": [{"AI": "I see.", "AI Strategy": "Emotional Validation"}]}, [SEEN], "were a list"),
        ({"AI": "I see.", "AI_strategy": "Emotional Validation"}, [SEEN], 'key "AI_strategy" read as "AI Strategy"'),
        ({"AI": "I see.", "AI Strategies": ["Emotional Validation", "Others"]}, [SEEN], 'key "AI Strategies"'),
        ({"AI": "I see."}, [("su", "I see.", None)], "supporter turns without strategy"),
        ({"AI": "I see.", "AI Strategy": ""}, [("su", "I see.", None)], "strategies that were empty"),
        ({"AI": "I see.", "AI Strategy": None}, [("su", "I see.", None)], "strategies that were empty"),
        ({"AI": "I see.", "AI Strategy": "emotional validation"}, [SEEN], "strategies in another spelling"),
        (
            {"AI": "I see.", "AI Strategy": "The AI uses Emotional Validation and then Clarification."},
            [SEEN],
            "strategies in another spelling",
        ),
        (
            {"AI": "I see.", "AI Strategy": "Judgment And Criticism"},
            [("su", "I see.", "avoid-judgment-and-criticism")],
            "strategies in another spelling",
        ),
        ({"AI": "I see.", "AI Strategy": "Humming"}, [("su", "I see.", None)], "strategies that mean none of the 16"),
        ({**AI, "Mood": "calm"}, [SEEN], 'extra key "Mood" of an utterance'),
    ],
)
def test_defects_of_an_item(tmp_path, item, turns, counted):
    got, summary, _ = one(tmp_path, item)
    assert got == turns
    assert sum(count for name, count in summary.items() if counted in name) == 1, dict(summary)


def test_a_strategy_alone_belongs_to_the_response_before(tmp_path):
    turns, summary, _ = one(tmp_path, {"AI": "I see."}, {"AI Strategy": "Emotional Validation"}, {}, {"User": "Yes."})
    assert turns == [SEEN, ("se", "Yes.", None)]
    assert summary["items with neither User nor AI"] == 2


def test_other_keys_for_the_seeker_and_unmatched_labels_are_kept(tmp_path):
    turns, summary, dialogue = one(tmp_path, {"AI": "I see.", "AI Strategy": "Humming"}, {"User A": "Yes."}, note="x")
    assert turns[1] == ("se", "Yes.", None) and summary['key "User A" read as "User"'] == 1
    assert summary['extra key "note" of a dialogue'] == 1
    assert dialogue.provenance["unmatched_strategies"] == ["Humming"]


def test_the_supporter_first_and_a_missing_description(tmp_path):
    (dialogue,), summary = read(tmp_path, {"scene": "Anxiety", "content": [AI, {"User": "Hm."}]})
    assert dialogue.turns[0].speaker == "supporter" and dialogue.situation == ""
    assert dialogue.provenance["scene"] == "Anxiety"
    assert summary["supporter speaks first"] == summary["descriptions missing"] == 1
    assert summary["scenes in another spelling"] == 1


def test_what_cannot_be_mended_is_refused_by_name(tmp_path):
    good = record({"User": "Hello."}, AI)
    bad = [
        record(AI, scene="Gardening"),
        record({"User": "Alone."}),
        record({"Narrator": "And so they talked for a very long time."}, AI),
        record("Hello?", AI),
        {"scene": 3, "content": []},
    ]
    dialogues, summary = read(tmp_path, good, *bad)
    assert len(dialogues) == 1
    expected = [
        'record 1: scene: "Gardening"',
        "record 2: turns: no supporter",
        "record 3: content[0]: the keys Narrator",
    ]
    expected += ["record 4: content[0]: expected an object", "record 5: scene: got 3"]
    assert all(part in reason for part, reason in zip(expected, summary.refused, strict=True))


@pytest.mark.parametrize(
    "spelling, scenario",
    [
        ("Breakup or Divorce", "breakups-or-divorce"),
        ("breakups and divorce", "breakups-or-divorce"),
        ("LGBTQ Identity", "lgbtq-identity"),
        ("PTSD", "post-traumatic-stress-disorder-ptsd"),
        ("Post Traumatic Stress Disorder", "post-traumatic-stress-disorder-ptsd"),
        ("Academic stress", "academic-stress"),
        ("Academic Stress & Pressure", "academic-stress-or-pressure"),
        ("Work Stress and Burnout", "work-related-stress-and-burnout"),
        ("Unemployment Stress", "unemployment-related-stress"),
        ("Healing From Abuse", "healing-from-abuse"),
        ("Recovering from Physical or Emotional Abuse", "surviving-and-recovering-from-physical-or-emotional-abuse"),
        ("Coping with the Loss of a Loved One", "coping-with-the-death-of-a-loved-one"),
        ("Loss of a Pet", "dealing-with-the-loss-of-a-pet"),
        ("12. Career Transition", "career-transitions"),
        ("Communication Problems", "conflicts-or-communication-problems"),
        ("Communication Challenge", "communication-challenges"),
        ("Parental Guilt", "parenting-challenges-and-parental-guilt"),
        ("Parenthood and Parenting Challanges", "parenthood-and-parenting-challenges"),
        ("Chronic Pain Management", "chronic-illness-or-pain-management"),
        ("Stress", None),
        ("Abuse", None),
        ("Cooking", None),
    ],
)
def test_spellings_of_scenes(spelling, scenario):
    assert match(spelling, load_taxonomy("extes").scenarios)[0] == scenario


def test_every_title_in_other_clothes_means_itself():
    for known in (load_taxonomy("extes").scenarios, load_taxonomy("extes").strategies):
        for entry in known.values():
            assert match(entry.title, known) == (entry.id, True)
            dressed = [entry.title.lower(), entry.title.upper(), entry.title.replace(" and ", " & "), entry.title + "."]
            dressed += [entry.title.replace("-", " "), entry.title.replace(" or ", "/"), f" {entry.title}s"]
            assert {match(text, known)[0] for text in dressed} == {entry.id}, entry.title


def test_a_scene_needs_a_known_format(tmp_path):
    with pytest.raises(DataError, match="no dialogue of format extes"):
        read(tmp_path, {"scene": "Anxiety and Panic", "dialog": []})
