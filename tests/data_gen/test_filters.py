"""Every filter lets ordinary texts pass and names what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from data_gen.config import FiltersConfig
from data_gen.filters.chain import (
    REASONS,
    Rejection,
    check_dialogue_text,
    check_filters,
    check_response_text,
    read_reply,
    read_strategy,
)
from data_gen.filters.text import TextView
from extes_train.dialogue.shingles import word_shingles
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError

EXTES = load_taxonomy("extes")
SEEKER_LINES = [
    "I moved to Leeds in March and I still eat my lunch alone every single day.",
    "It is not that people are rude. They just have their groups, you know?",
    "I tried the running club once, but everybody was faster and I went home.",
    "Maybe. I would feel silly asking the woman from accounts for a coffee.",
    "She did smile at me on Thursday when the printer broke, that was nice.",
]
SUPPORTER_LINES = [
    "Months of quiet lunches sound lonely, and it makes sense that it wears you down.",
    "How do you feel in the moment when you sit down with your tray?",
    "You did try something, which took courage, even though it went badly.",
    "One small step could be a single question to one person, nothing bigger.",
    "Then there is a first thread to pick up; what might you say next time?",
]


def reply(**changes: Any) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for seeker, supporter in zip(SEEKER_LINES, SUPPORTER_LINES):
        turns.append({"speaker": "seeker", "text": seeker, "strategy": None, "tags": []})
        turns.append({"speaker": "supporter", "text": supporter, "strategy": "clarification"})
    return {"situation": "A newcomer eats alone at work.", "turns": turns, **changes}


def judge(value: Any, config: FiltersConfig | None = None) -> str | None:
    found = read_reply(value, "academic-stress", EXTES)
    if isinstance(found, Rejection):
        return found.reason
    view = TextView([turn.text for turn in found.turns])
    rejected = check_dialogue_text(found, view, config or FiltersConfig())
    return rejected.reason if rejected else None


def with_text(text: str, turn: int = 3) -> dict[str, Any]:
    value = reply()
    value["turns"][turn]["text"] = text
    return value


def test_an_ordinary_reply_passes() -> None:
    assert judge(reply()) is None


def test_forms_that_are_plainly_meant_are_mended() -> None:
    value = reply()
    value["turns"][0]["speaker"], value["turns"][1]["speaker"] = "User", "assistant"
    value["turns"][3]["strategy"] = "Reflective Statements"
    found = read_reply(value, "academic-stress", EXTES)
    assert not isinstance(found, Rejection)
    assert [turn.speaker for turn in found.turns[:2]] == ["seeker", "supporter"]
    assert found.turns[3].strategy == "reflective-statements"
    assert read_strategy("Others ", EXTES) == "others" and read_strategy("hugging", EXTES) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("text", "schema"),
        ({"turns": []}, "schema"),
        (reply(situation=" "), "schema"),
        (reply(turns=reply()["turns"][:3]), "length"),
        (reply(turns=[*reply()["turns"], reply()["turns"][-1]]), "alternation"),
        (with_text("word " * 300), "length"),
        (with_text("I am here, I am here, I am here, I am here, I am here for you."), "repetition"),
        (with_text(SUPPORTER_LINES[0]), "repetition"),
        (with_text("half \ud800 pair"), "schema"),
    ],
)
def test_shape(value: Any, reason: str) -> None:
    assert judge(value) == reason and reason in REASONS


def test_strategy_must_be_known() -> None:
    value = reply()
    value["turns"][1]["strategy"] = "hugging"
    assert judge(value) == "strategy"
    del value["turns"][1]["strategy"]
    assert judge(value) == "strategy"


@pytest.mark.parametrize(
    "text",
    [
        "You have clinical depression, and that is why you feel so empty.",
        "It sounds like you're definitely bipolar.",
        "Take 50 mg of sertraline before you go to bed.",
        "You could take two tablets of diazepam when it gets bad.",
        "You should stop taking your medication for a while.",
        "I promise I won't tell anyone about this, whatever happens.",
        "This stays between us, I will keep your secret.",
        "I'm a licensed therapist, so you can trust me on this.",
        "I am a real person, just like you.",
        "As a human being I can feel what you went through.",
    ],
)
def test_conduct_of_a_supporter(text: str) -> None:
    assert judge(with_text(text)) == "conduct"
    assert judge(with_text(text), FiltersConfig(conduct=False)) != "conduct"


@pytest.mark.parametrize(
    "text",
    [
        "Have you spoken with your doctor about the dose you take?",
        "Please don't change your tablets without asking your doctor or pharmacist first.",
        "I'm not a human and I'm no therapist, but I am listening.",
        "Many people live well with bipolar disorder once they find the right help.",
        "Would it help to tell someone you trust about this?",
        "You don't have to keep it a secret from everyone you love.",
    ],
)
def test_careful_sentences_pass(text: str) -> None:
    assert judge(with_text(text)) is None


def test_conduct_binds_supporters_only() -> None:
    assert judge(with_text("My doctor told me to take two tablets of diazepam a day.", turn=4)) is None


@pytest.mark.parametrize(
    "text",
    [
        "Write to me at jo.doe@example.org when you are home.",
        "Call me on +44 7700 900123 tonight.",
        "My card number is 4111 1111 1111 1111 if that helps.",
        "We live at 12 Ashby Road, the house with the red door.",
        "My account is GB29 NWBK 6016 1331 9268 19 by the way.",
    ],
)
def test_personal_data(text: str) -> None:
    assert judge(with_text(text, turn=4)) == "pii"


@pytest.mark.parametrize(
    "text",
    [
        "Between 2015-2019 we moved 4 times, and I turned 30 in 2020.",
        "There is a line you can ring at any hour, 116 123, or 0800 111 2222.",
        "It was 3:45 in the morning and about 1,200 euros were gone.",
    ],
)
def test_numbers_that_are_no_personal_data(text: str) -> None:
    assert judge(with_text(text, turn=4)) is None


@pytest.mark.parametrize(
    "text",
    [
        "Some nights I think about killing myself.",
        "I just want to die.",
        "They would be better off without me.",
        "I have been cutting myself again.",
        "I don't want to live anymore.",
        "I thought of taking all the pills in the cupboard.",
        "I keep having suicidal thoughts.",
    ],
)
def test_crisis_is_its_own_reason(text: str) -> None:
    assert judge(with_text(text, turn=4)) == "crisis"


@pytest.mark.parametrize(
    "text",
    [
        "My grandmother died in June and I miss her.",
        "I don't want to live in this town forever.",
        "The traffic nearly killed me this morning, honestly.",
        "I want to take my life back and see friends again.",
        "I cut the grass and cut my finger.",
    ],
)
def test_ordinary_talk_of_death_is_no_crisis(text: str) -> None:
    assert judge(with_text(text, turn=4)) is None


def test_language() -> None:
    german = [
        "Ich bin im März nach Leeds gezogen und esse immer noch jeden Tag allein zu Mittag.",
        "Das klingt einsam, und ich kann verstehen, dass es dich nach so langer Zeit müde macht.",
    ]
    value = reply()
    for i, turn in enumerate(value["turns"]):
        turn["text"] = f"{german[i % 2]} Das war der Tag Nummer {i}."
    assert judge(value) == "language"
    assert judge(value, FiltersConfig(language="de")) is None
    assert judge(value, FiltersConfig(language=None)) is None
    assert (
        judge(with_text("我搬到了利兹,每天一个人吃午饭,真的很难受。" * 60), FiltersConfig(max_words=999)) == "language"
    )
    with pytest.raises(ConfigError, match=r"filters.language='klingon'"):
        check_filters(FiltersConfig(language="klingon"))


def test_responses_are_filtered_alike() -> None:
    for text, reason in (("You have major depression.", "conduct"), ("Ring +44 7700 900123.", "pii"), ("", "length")):
        rejected = check_response_text(text, TextView([text]), FiltersConfig())
        assert rejected is not None and rejected.reason == reason
    text = "That sounds like a lot to carry on your own."
    assert check_response_text(text, TextView([text]), FiltersConfig()) is None


def test_shingles_are_those_of_the_definition() -> None:
    for texts in (SEEKER_LINES, ["one"], ["one two"], [""], ["It’s late", "ok", "no no no no"]):
        expected = word_shingles("\n".join(texts))
        assert len(TextView(texts).shingles()) == len(expected)
