"""Overlap of generated responses with the original ones: BLEU-1..4, ROUGE-L, METEOR (DESIGN: Measures)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from extes_train.dialogue.shingles import words

METEOR_NAME = "meteor_exact_stem"


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
    """bleu1..bleu4 (0 to 100: sacrebleu corpus BLEU of maximum order n, tokenizer 13a) and `bleu_signature`."""
    from sacrebleu.metrics.bleu import BLEU

    scores: dict[str, float | str] = {}
    for order in (1, 2, 3, 4):
        metric = BLEU(tokenize="13a", max_ngram_order=order)
        scores[f"bleu{order}"] = metric.corpus_score(list(hypotheses), [list(references)]).score
    scores["bleu_signature"] = str(metric.get_signature())
    return scores


def rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Mean sentence-level ROUGE-L F1 (0 to 1) of the package rouge-score, without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = [
        scorer.score(reference, hypothesis)["rougeL"].fmeasure
        for hypothesis, reference in _pairs(hypotheses, references)
    ]
    return sum(scores) / len(scores)


def meteor(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Mean `meteor_exact_stem` (0 to 1)."""
    scores = [sentence_meteor(words(h), words(r)) for h, r in _pairs(hypotheses, references)]
    return sum(scores) / len(scores)


def sentence_meteor(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
    """METEOR of Banerjee and Lavie (ACL 2005 workshop, W05-0909) with the modules exact and Porter stem, no synonyms.

    F = 10 P R / (R + 9 P), less the penalty 0.5 (chunks / matches)^3. Both modules run in this order over words that
    are still free. Where words repeat, the paper asks for the mapping with the fewest crossings; this one takes the
    longest common run first, and among equally long ones the nearest, then the leftmost.
    """
    matches = align(hypothesis, reference)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(hypothesis), len(matches) / len(reference)
    f_mean = 10 * precision * recall / (recall + 9 * precision)
    return f_mean * (1 - 0.5 * (count_chunks(matches) / len(matches)) ** 3)


def align(hypothesis: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (place in the hypothesis, place in the reference), each place at most once, in order of the first."""
    pairs: dict[int, int] = {}
    stemmed = [_stem(word) for word in hypothesis], [_stem(word) for word in reference]
    for left, right in ((list(hypothesis), list(reference)), stemmed):
        _align_module(left, right, pairs)
    return sorted(pairs.items())


def _align_module(left: list[str], right: list[str], pairs: dict[int, int]) -> None:
    """Add the matches of one module to `pairs`: longest run of free words first, until nothing matches."""
    free_left = set(range(len(left))) - pairs.keys()
    free_right = set(range(len(right))) - set(pairs.values())
    while True:
        runs: dict[tuple[int, int], int] = {}  # (i, j) -> length of the run of matches that ends there
        best: tuple[int, int, int, int] | None = None
        for i in sorted(free_left):
            for j in sorted(free_right):
                if left[i] == right[j]:
                    length = runs[i, j] = runs.get((i - 1, j - 1), 0) + 1
                    candidate = (-length, abs(i - j), i, j)
                    best = candidate if best is None or candidate < best else best
        if best is None:
            return
        length, i, j = -best[0], best[2], best[3]
        for k in range(length):
            pairs[i - k] = j - k
            free_left.discard(i - k)
            free_right.discard(j - k)


def count_chunks(matches: Sequence[tuple[int, int]]) -> int:
    """Runs of matches that are neighbours, in the same order, on both sides."""
    follows = sum(b == (a[0] + 1, a[1] + 1) for a, b in itertools.pairwise(matches))
    return len(matches) - follows


@functools.lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    return _stemmer().stem(word)


@functools.cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def _pairs(hypotheses: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references; equally many, at least one")
    return list(zip(hypotheses, references))
