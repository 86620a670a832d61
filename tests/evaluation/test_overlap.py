"""BLEU, ROUGE-L and METEOR against values worked out by hand or by another implementation."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from extes_train.evaluation.overlap import align, bleu, count_chunks, meteor, rouge_l, sentence_meteor


def test_bleu_is_the_corpus_formula():
    hypotheses = ["the cat sat on the mat", "a dog barks"]
    references = ["the cat is on the mat", "a dog barks loudly"]
    scores = bleu(hypotheses, references)
    brevity = math.exp(1 - 10 / 9)
    assert scores["bleu1"] == pytest.approx(100 * brevity * 8 / 9)
    assert scores["bleu2"] == pytest.approx(100 * brevity * math.sqrt(8 / 9 * 5 / 7))
    assert scores["bleu1"] > scores["bleu2"] > scores["bleu3"] > scores["bleu4"] > 0
    assert "tok:13a" in scores["bleu_signature"] and "version:" in scores["bleu_signature"]
    assert bleu(["It's a test."], ["It's a test."])["bleu4"] == pytest.approx(100)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    assert rouge_l(["the cat sat"], ["the cat on the mat sat"]) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert rouge_l(["a b", "x"], ["a b", "y"]) == pytest.approx(0.5)


def test_meteor_by_hand():
    same = ["on", "the", "mat", "sat", "the", "cat"]
    assert sentence_meteor(same, same) == pytest.approx(1 - 0.5 * (1 / 6) ** 3)
    # the same words in another order: three chunks of six matches
    assert sentence_meteor(same, ["the", "cat", "sat", "on", "the", "mat"]) == pytest.approx(1 - 0.5 * (3 / 6) ** 3)
    # one word missing in the hypothesis: P = 1, R = 5/6, two chunks
    f_mean = 10 * 5 / 6 / (5 / 6 + 9)
    assert sentence_meteor(
        ["the", "cat", "on", "the", "mat"], ["the", "cat", "sat", "on", "the", "mat"]
    ) == pytest.approx(f_mean * (1 - 0.5 * (2 / 5) ** 3))
    assert sentence_meteor(["a"], ["b"]) == 0.0 and sentence_meteor([], ["b"]) == 0.0


def test_stems_match_after_exact_words():
    assert align(["feelings", "matter"], ["feeling", "matters"]) == [(0, 0), (1, 1)]
    assert align(["feel", "feeling"], ["feeling", "feel"]) == [(0, 1), (1, 0)]
    assert meteor(["Feelings matter!"], ["feeling matters"]) == pytest.approx(1 - 0.5 / 8)


def test_alignments_are_as_many_and_nearly_as_whole_as_the_best():
    """Brute force over all mappings of short sentences: equally many matches, chunks equal in nearly all cases."""
    rng = random.Random(0)
    equal = 0
    for _ in range(150):
        left = [rng.choice("abc") for _ in range(rng.randint(1, 5))]
        right = [rng.choice("abc") for _ in range(rng.randint(1, 5))]
        got = align(left, right)
        assert len(got) == sum((Counter(left) & Counter(right)).values())
        assert all(left[i] == right[j] for i, j in got) and len({j for _, j in got}) == len(got)
        equal += not got or count_chunks(got) == fewest_chunks(left, right, len(got))
    assert equal >= 145


def fewest_chunks(left, right, size):
    best = size
    for places in itertools.combinations(range(len(left)), size):
        for others in itertools.permutations(range(len(right)), size):
            if all(left[i] == right[j] for i, j in zip(places, others)):
                best = min(best, count_chunks(list(zip(places, others))))
    return best


def test_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="2 hypotheses and 1 references"):
        meteor(["a", "b"], ["a"])
