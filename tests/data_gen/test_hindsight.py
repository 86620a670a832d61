"""Hindsight: planted disclosures of later turns are found, ordinary answers are not."""

from __future__ import annotations

import pytest

from data_gen.hindsight import hindsight, stem
from extes_train.dialogue.schema import Turn

LEFT = [
    Turn("seeker", "I can't sleep, and at work everybody notices that I am slow."),
    Turn("supporter", "How long has that been going on?", "clarification"),
    Turn("seeker", "Since the phone call last week. I keep hearing it."),
]
ORIGINAL = "A call that keeps ringing in your head sounds heavy. What was said? Would a walk help?"
RIGHT = [
    Turn("seeker", "It was the hospital in Trondheim. My sister Anna has been diagnosed with diabetes at 34."),
    Turn("supporter", "That is a lot to take in. Is there a nurse she could ask about a diet?", "share-information"),
    Turn("seeker", "A walk? Perhaps. I owe her three hundred pounds and a diet will not pay that."),
]


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("Hearing that Anna is ill must be frightening.", ["anna"]),
        ("Trondheim is far away when you worry.", ["trondheim"]),
        ("Being told at 34 is young.", ["34"]),
        ("Being told at thirty-four is young, and three people count.", ["thirty", "four", "three"]),
        ("She is thirty four, then.", ["thirty", "four"]),
        ("Before her 34th birthday?", ["34th"]),
        ("It is hard when a sister is unwell.", ["sister"]),
        ("Diabetes can be lived with, and hospitals do help.", ["diabetes", "hospitals"]),
        ("Money matters: what do you owe, how many pounds?", ["owe", "pounds"]),
    ],
)
def test_planted_disclosures(response: str, found: list[str]) -> None:
    answer = hindsight(response, LEFT, ORIGINAL, RIGHT)
    assert set(answer) & set(found) and set(answer) <= {*found, "owe"}


@pytest.mark.parametrize(
    "response",
    [
        "That sounds exhausting. What is it about the phone call that stays with you?",
        "You noticed that work got slower; have you been able to tell someone there?",
        "Let's take one thing at a time. Would a walk before bed be possible?",
        "Some people find that a diet or a nurse's advice helps them sleep.",  # first said by the supporter later
        "Since last week you have carried that alone.",
        "Anyone would lie awake after such a call.",
    ],
)
def test_ordinary_answers(response: str) -> None:
    assert hindsight(response, LEFT, ORIGINAL, RIGHT) == []


def test_what_was_said_before_is_no_hindsight() -> None:
    left = [*LEFT, Turn("supporter", "Go on.", "others"), Turn("seeker", "Anna, my sister, is 34 and has diabetes.")]
    assert hindsight("Anna is 34, and diabetes scares her sister.", left, ORIGINAL, RIGHT) == []


def test_stems() -> None:
    assert stem("sisters") == stem("sister's") == stem("sister")
    assert stem("diagnosed") == stem("diagnose")
