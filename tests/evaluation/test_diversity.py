"""Distinct-n and the use of strategies."""

from __future__ import annotations

import pytest

from extes_train.dialogue.schema import Turn, make_dialogue
from extes_train.evaluation.diversity import distinct, duplicate_share
from extes_train.evaluation.strategies import strategy_counts, strategy_entropy, strategy_repetition


def test_distinct_counts_over_the_whole_file():
    texts = ["I am here.", "I am, here!", "you"]
    assert distinct(texts, 1) == pytest.approx(4 / 7)
    assert distinct(texts, 2) == pytest.approx(2 / 4)
    assert distinct(texts, 3) == pytest.approx(1 / 2)
    assert distinct([""], 1) == 0.0
    assert duplicate_share(texts) == pytest.approx(1 / 3)


def labelled(*labels):
    turns = [turn for label in labels for turn in (Turn("seeker", "a"), Turn("supporter", "b", label))]
    return make_dialogue("", "", turns)


def test_entropy_in_bits_and_repetition():
    dialogues = [labelled("x", "x", "y"), labelled("y", "z", "z"), labelled("w", "w")]
    assert strategy_counts(dialogues) == {"x": 2, "y": 2, "z": 2, "w": 2}
    assert strategy_entropy(dialogues) == pytest.approx(2.0)
    assert strategy_repetition(dialogues) == pytest.approx(3 / 5)
    assert strategy_entropy([labelled("x", "x")]) == 0.0
    assert strategy_entropy([labelled(None)]) is None and strategy_repetition([labelled("x")]) is None
    assert strategy_repetition([labelled("x", None, "x")]) is None
