"""Shingles, their overlap, and the leak check."""

from __future__ import annotations

import random

import pytest

from extes_train.dialogue.leak import check_leak, near_duplicates
from extes_train.dialogue.schema import Turn, make_dialogue
from extes_train.dialogue.shingles import jaccard, word_shingles
from extes_train.errors import DataError


def said(text, **provenance):
    return make_dialogue("", "", [Turn("seeker", "Well then."), Turn("supporter", text)], provenance)


def test_shingles_of_a_text_and_of_turns():
    assert word_shingles("Don’t, don't stop NOW") == {"don't don't stop", "don't stop now"}
    assert word_shingles("one two") == {"one two"} and word_shingles("…") == set()
    assert word_shingles([Turn("seeker", "a b"), Turn("supporter", "c")]) == {"a b c"}
    assert jaccard({"a", "b"}, {"b", "c"}) == pytest.approx(1 / 3)
    assert jaccard(set(), set()) == 1.0


def test_the_filter_finds_exactly_the_pairs_of_brute_force():
    rng = random.Random(3)
    base = [[f"w{rng.randrange(40)}" for _ in range(30)] for _ in range(12)]
    pool = [said(" ".join(w if rng.random() > 0.05 else "x" for w in rng.choice(base))) for _ in range(80)]
    sides = {"train": pool[:50], "valid": pool[50:65], "test": pool[65:]}
    named = [(side, d) for side, ds in sides.items() for d in ds]
    expected = {
        frozenset((id(a), id(b)))
        for i, (sa, a) in enumerate(named)
        for sb, b in named[:i]
        if sa != sb and jaccard(word_shingles(a.turns), word_shingles(b.turns)) >= 0.7
    }
    found = [frozenset((id(a), id(b))) for _, a, _, b, _ in near_duplicates(sides)]
    assert len(expected) > 20
    assert len(found) == len(set(found)) and set(found) == expected


def test_a_near_duplicate_across_sides_is_named_and_one_within_a_side_passes():
    text = "it is a long road from here to the sea and back"
    first, second = said(text), said(text + " again")
    check_leak({"train": [first, second], "valid": [said("Something else entirely, with other words in it.")]})
    with pytest.raises(
        DataError, match=rf"{first.id} \(train\) and {second.id} \(valid\) share \d\d% of their word 3-sh"
    ):
        check_leak({"train": [first], "valid": [second]})


def test_a_shared_exemplar_is_named():
    train, valid = said("a b c d", exemplars=["e0"]), said("p q r s", exemplars=["e1", "e0"])
    with pytest.raises(DataError, match=rf"e0 is an ancestor on both sides: of {train.id} \(train\) and of {valid.id}"):
        check_leak({"train": [train], "valid": [valid]})


def test_a_dialogue_that_is_anothers_exemplar_is_named():
    seed = said("k l m n")
    with pytest.raises(DataError, match=f"{seed.id} is an ancestor on both sides"):
        check_leak({"train": [seed], "test": [said("u v w x", exemplars=[seed.id])]})


def test_many_findings_are_counted():
    pairs = [
        (said(f"t{i} b c d e f", exemplars=[f"x{i}"]), said(f"v{i} q r s t u", exemplars=[f"x{i}"])) for i in range(9)
    ]
    with pytest.raises(DataError, match=r"\(9 findings\)(.|\n)*and 4 more(.|\n)*data.leak_check=false"):
        check_leak({"train": [a for a, _ in pairs], "valid": [b for _, b in pairs]})
