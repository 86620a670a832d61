"""What was rewritten for speed says the same as the plain form it stands for."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from datasketch import MinHash

from data_gen.dedup import PERMUTATIONS, NearDuplicates, Novelty
from data_gen.filters.text import TextView, word_hash, words_of
from data_gen.prompting import make_exemplar
from extes_train.dialogue.files import digest_of
from extes_train.dialogue.schema import SEEKER, SUPPORTER, Dialogue, Turn, dialogue_id, make_dialogue
from extes_train.dialogue.shingles import words

PIECES = [
    *"ab'' \n\t\0\x1c\x1f\x85\"\\/_-.9?",
    "’",
    "“",
    "—",
    "…",
    "é",
    "e\u0301",
    "ﬁ",
    "Σ",
    "中",
    "don't",
    "I’m",
    " x ",
]


def anything(rng: random.Random) -> str:
    pieces = PIECES if rng.random() < 0.5 else [p for p in PIECES if p.isascii()]
    return "".join(rng.choices(pieces, k=rng.randrange(30)))


def test_words_of_many_texts_are_the_words_of_each() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        texts = [anything(rng) for _ in range(rng.randrange(5))]
        assert words_of(texts) == [words(text) for text in texts], texts


def test_a_view_outlives_a_full_table(monkeypatch: pytest.MonkeyPatch) -> None:
    first = TextView(["one two"])
    for i in range(40):
        TextView([" ".join(f"w{i}x{j}" for j in range(2000))])
    large = TextView([" ".join(f"y{j}" for j in range(70_000))])
    assert first.hashes.tolist() == [word_hash("one"), word_hash("two")] == TextView(["one two"]).hashes.tolist()
    assert large.hashes[-1] == word_hash("y69999")


def a_dialogue(rng: random.Random) -> Dialogue:
    turns = [
        Turn(SUPPORTER, anything(rng), rng.choice([None, anything(rng)])) if i % 2 else Turn(SEEKER, anything(rng))
        for i in range(rng.randrange(6))
    ]
    for turn in turns[::2]:
        turn.tags = [anything(rng) for _ in range(rng.randrange(3))]
    return make_dialogue(anything(rng), anything(rng), turns)


def test_ids_are_the_digest_of_the_canonical_json() -> None:
    import unicodedata

    def nfc(text: str) -> str:
        return unicodedata.normalize("NFC", text)

    rng = random.Random(1)
    for _ in range(500):
        d = a_dialogue(rng)
        turns = [
            {"speaker": t.speaker, "text": nfc(t.text), "strategy": None if t.strategy is None else nfc(t.strategy)}
            for t in d.turns
        ]
        assert d.id == digest_of({"scenario": nfc(d.scenario), "situation": nfc(d.situation), "turns": turns}, 16)
    with pytest.raises(UnicodeEncodeError):
        dialogue_id("", "\ud800", [])


def test_an_exemplar_is_plain_json() -> None:
    rng = random.Random(2)
    for _ in range(500):
        d = a_dialogue(rng)
        turns = []
        for turn in d.turns:
            shown: dict[str, object] = {"speaker": turn.speaker, "text": turn.text}
            if turn.strategy is not None:
                shown["strategy"] = turn.strategy
            if turn.tags:
                shown["tags"] = turn.tags
            turns.append(shown)
        value = {"scenario": d.scenario, "situation": d.situation, "turns": turns}
        assert make_exemplar(d).text == json.dumps(value, ensure_ascii=False)


def test_signatures_are_those_of_datasketch() -> None:
    rng, near = np.random.default_rng(0), NearDuplicates(0.7)
    for size in (0, 1, 7, 400):
        shingles = np.unique(rng.integers(0, 2**32, size, dtype=np.uint32))
        plain = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
        plain.update_batch(shingles.tolist())
        assert near._sketch(shingles)[0].tolist() == plain.hashvalues.tolist()


def test_bits_that_share_a_byte_are_all_set() -> None:
    novelty = Novelty()
    assert novelty.add(np.arange(64, dtype=np.uint32)) == 1.0
    assert novelty.add(np.arange(128, dtype=np.uint32)) == 0.5
