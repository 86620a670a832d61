"""The leak check: no shared ancestor and no near-duplicate across sides."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from extes_train.dialogue.schema import Dialogue
from extes_train.dialogue.shingles import NEAR_DUPLICATE, jaccard, word_shingles
from extes_train.errors import DataError

SHOWN = 5  # pairs named in the message


def check_leak(sides: Mapping[str, Sequence[Dialogue]]) -> None:
    """Raise DataError that names the pairs, if two sides share a dialogue, an exemplar, or a near-duplicate."""
    findings = shared_ancestors(sides) + [
        f"{a.id} ({side_a}) and {b.id} ({side_b}) share {similarity:.0%} of their word 3-shingles"
        for side_a, a, side_b, b, similarity in near_duplicates(sides)
    ]
    if not findings:
        return
    more = f"\n  … and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
    raise DataError(
        f"the sides {', '.join(sides)} are not apart ({len(findings)} findings):\n  "
        + "\n  ".join(findings[:SHOWN])
        + more
        + "\nremove one of each pair or put both on one side; data.leak_check=false trains on them all the same"
    )


def shared_ancestors(sides: Mapping[str, Sequence[Dialogue]]) -> list[str]:
    """Sentences about ids that stand on, or served as exemplars for, more than one side.

    Every dialogue of a side brings its own exemplars, so the whole lineage inside the files is covered.
    """
    first: dict[str, dict[str, Dialogue]] = defaultdict(dict)
    for side, dialogues in sides.items():
        for dialogue in dialogues:
            for ancestor in (dialogue.id, *dialogue.provenance.get("exemplars", ())):
                first[ancestor].setdefault(side, dialogue)
    return [
        f"{ancestor} is an ancestor on both sides: of "
        + " and of ".join(f"{dialogue.id} ({side})" for side, dialogue in found.items())
        for ancestor, found in first.items()
        if len(found) > 1
    ]


def near_duplicates(
    sides: Mapping[str, Sequence[Dialogue]], threshold: float = NEAR_DUPLICATE
) -> list[tuple[str, Dialogue, str, Dialogue, float]]:
    """Every pair across sides with a Jaccard similarity of at least `threshold`. Exact.

    A pair that similar shares one of the rarest |A| - ceil(threshold |A|) + 1 shingles of either dialogue ("prefix
    filter", Chaudhuri et al. 2006), so only those are looked up. Shingles of one side alone count as the rarest: they
    cannot be shared, so a dialogue with many of them is done at once.
    """
    items = [(side, dialogue) for side, dialogues in sides.items() for dialogue in dialogues]
    shingles = [word_shingles(dialogue.turns) for _, dialogue in items]
    frequency = _shared_frequency([side for side, _ in items], shingles)
    holders: dict[str, list[int]] = defaultdict(list)
    found = []
    for i, own in enumerate(shingles):
        kept = len(own) - math.ceil(threshold * len(own) - 1e-9) + 1
        ordered = sorted(own, key=lambda shingle: (frequency.get(shingle, 0), shingle))
        rarest = [shingle for shingle in ordered[:kept] if shingle in frequency]
        candidates = {j for shingle in rarest for j in holders[shingle] if items[j][0] != items[i][0]}
        for j in sorted(candidates):
            similarity = jaccard(own, shingles[j])
            if similarity >= threshold:
                found.append((*items[j], *items[i], similarity))
        for shingle in rarest:
            holders[shingle].append(i)
    return found


def _shared_frequency(sides: Sequence[str], shingles: Sequence[set[str]]) -> dict[str, int]:
    """How many dialogues hold each shingle that stands on more than one side."""
    first: dict[str, str] = {}
    shared: set[str] = set()
    for side, own in zip(sides, shingles):
        for shingle in own:
            if first.setdefault(shingle, side) != side:
                shared.add(shingle)
    counts: Counter[str] = Counter()
    for own in shingles:
        counts.update(own & shared)
    return counts
