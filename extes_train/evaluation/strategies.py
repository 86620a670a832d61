"""Support strategies of dialogues: how evenly they are used, how often one follows itself (DESIGN: Measures)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable

from extes_train.dialogue.schema import SUPPORTER, Dialogue


def strategy_counts(dialogues: Iterable[Dialogue]) -> Counter[str]:
    """Labelled supporter turns by strategy."""
    return Counter(t.strategy for d in dialogues for t in d.turns if t.speaker == SUPPORTER and t.strategy is not None)


def strategy_entropy(dialogues: Iterable[Dialogue]) -> float | None:
    """Entropy in bits of the strategies of all labelled supporter turns; None without labels."""
    counts = strategy_counts(dialogues)
    total = sum(counts.values())
    if not total:
        return None
    return -sum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


def strategy_repetition(dialogues: Iterable[Dialogue]) -> float | None:
    """Share of supporter turns with a supporter turn before them whose strategy equals theirs; None without pairs."""
    pairs = same = 0
    for dialogue in dialogues:
        labels = [turn.strategy for turn in dialogue.turns if turn.speaker == SUPPORTER]
        for before, label in itertools.pairwise(labels):
            if before is not None and label is not None:
                pairs += 1
                same += before == label
    return same / pairs if pairs else None
