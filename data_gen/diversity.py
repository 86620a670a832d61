"""Which alternatives of a turn are kept: those that differ, in words and in what they do, and fit what comes next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_gen.hindsight import content_stems
from extes_train.dialogue.shingles import words

MAX_ORDER = 4  # of BLEU
Grams = list[Counter[tuple[str, ...]]]


@dataclass(slots=True)
class Response:
    """A candidate or the original, with what comparing it needs."""

    text: str
    strategy: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    consistency: float = 1.0
    words: list[str] = field(default_factory=list)
    grams: Grams = field(default_factory=list)
    vector: Any = None  # of length 1, from `inpaint.embedding_model`

    def __post_init__(self) -> None:
        self.words = words(self.text)
        self.grams = [Counter(zip(*(self.words[i:] for i in range(n)))) for n in range(1, MAX_ORDER + 1)]


def similarity(a: Response, b: Response) -> float:
    """How much of a copy one response is of another, 0 to 1.

    The cosine where both have vectors; else the larger of the Jaccard of their words and the share of the shorter one's
    word pairs that the other has too.
    """
    if a.vector is not None and b.vector is not None:
        return float(a.vector @ b.vector)
    first, second = set(a.grams[0]), set(b.grams[0])
    union = len(first | second)
    jaccard = len(first & second) / union if union else 1.0
    pairs_a, pairs_b = set(a.grams[1]), set(b.grams[1])
    shorter = min(len(pairs_a), len(pairs_b))
    return max(jaccard, len(pairs_a & pairs_b) / shorter if shorter >= 3 else 0.0)


def bleu(candidate: Response, references: Sequence[Response]) -> float:
    """BLEU-4 of one response against others, add-one smoothed above order 1 (Lin and Och 2004), 0 to 1."""
    length = len(candidate.words)
    if not length or not references:
        return 0.0
    total = 0.0
    for order in range(MAX_ORDER):
        grams = candidate.grams[order]
        hits = sum(min(n, max(r.grams[order].get(gram, 0) for r in references)) for gram, n in grams.items())
        smooth = 1 if order else 0
        if hits + smooth == 0:
            return 0.0
        total += math.log((hits + smooth) / (sum(grams.values()) + smooth))
    closest = min((len(r.words) for r in references), key=lambda n: (abs(n - length), n))
    brevity = 1.0 if length >= closest else math.exp(1 - closest / length)
    return brevity * math.exp(total / MAX_ORDER)


def self_bleu(responses: Sequence[Response]) -> float:
    """Mean BLEU of every response against the others: 0 all different, 1 all the same."""
    if len(responses) < 2:
        return 0.0
    return sum(bleu(r, [o for o in responses if o is not r]) for r in responses) / len(responses)


def distinct(responses: Sequence[Response], n: int) -> float:
    """Unique / all n-grams of the responses together."""
    unique = set().union(*(response.grams[n - 1] for response in responses))
    total = sum(sum(response.grams[n - 1].values()) for response in responses)
    return len(unique) / total if total else 0.0


def consistency(response: Response, original: Response, following: Response | None) -> float:
    """How well the next seeker turn still follows, 0 to 1; 1 where there is none.

    Half of it: does the response ask a question exactly if the original did (what follows is an answer or is not)?
    Half: how near the response is to the next turn, measured against the original: the cosine where all have vectors,
    else the content words of the next turn that are taken up.
    """
    if following is None:
        return 1.0
    asks = ("?" in response.text) == ("?" in original.text)
    by_response, by_original = _nearness(response, following), _nearness(original, following)
    return 0.5 * asks + 0.5 * (min(by_response / by_original, 1.0) if by_original > 0 else 1.0)


def _nearness(response: Response, following: Response) -> float:
    if response.vector is not None and following.vector is not None:
        return max(float(response.vector @ following.vector), 0.0)
    return len(content_stems(response.text) & content_stems(following.text))


@dataclass
class Choice:
    """What was kept of a turn's candidates, and why the others were not."""

    kept: list[Response]
    reasons: Counter[str]


def choose(
    candidates: Sequence[Response], present: Sequence[Response], number: int, max_similarity: float, vary: bool
) -> Choice:
    """Keep up to `number` of `candidates`, greedily the one that adds most to those `present` (the original first).

    A candidate too similar to a present or kept response is a `near_copy`; what is good but not needed is `surplus`.
    """
    kept: list[Response] = []
    left, reasons = list(candidates), Counter[str]()
    while left:
        others = [*present, *kept]
        distinct_enough = [c for c in left if all(similarity(c, other) <= max_similarity for other in others)]
        reasons["near_copy"] += len(left) - len(distinct_enough)
        left = distinct_enough
        if not left or len(kept) == number:
            break
        best = max(range(len(left)), key=lambda i: (_worth(left[i], others, vary), -i))
        kept.append(left.pop(best))
    reasons["surplus"] += len(left)
    return Choice(kept, +reasons)


def _worth(candidate: Response, others: Sequence[Response], vary: bool) -> float:
    """New word pairs (distinct-2), distance (self-BLEU), a strategy not there yet, and consistency."""
    seen = set().union(*(other.grams[1] for other in others)) if others else set()
    pairs = candidate.grams[1]
    new = sum(1 for pair in pairs if pair not in seen) / len(pairs) if pairs else 0.0
    other_strategy = candidate.strategy is not None and all(candidate.strategy != o.strategy for o in others)
    return new + (1 - bleu(candidate, others)) + candidate.consistency + (0.5 if vary and other_strategy else 0.0)


@dataclass
class DiversityMeasures:
    """Means over turns with alternatives, the original counted among the responses."""

    turns: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def measure(self, responses: Sequence[Response]) -> dict[str, float]:
        """The measures of one turn, rounded as they are journalled."""
        values = {"distinct_1": distinct(responses, 1), "distinct_2": distinct(responses, 2)}
        return {key: round(value, 4) for key, value in (values | {"self_bleu": self_bleu(responses)}).items()}

    def add(self, values: dict[str, float]) -> None:
        """Count one turn's measures."""
        self.turns += 1
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def measures(self) -> dict[str, float]:
        """The means, for the card."""
        return {f"{key}_per_turn": round(total / self.turns, 4) for key, total in sorted(self.sums.items())}
