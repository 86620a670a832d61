"""Word shingles and their overlap: the one definition of a near-duplicate (Jaccard >= 0.7 of word 3-shingles)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from extes_train.dialogue.schema import Turn

NEAR_DUPLICATE = 0.7
_WORD = re.compile(r"\w+(?:'\w+)*")


def words(text: str) -> list[str]:
    """Lower-case words of `text`, NFKC, typographic apostrophes as plain ones, punctuation left out."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).replace("’", "'").lower())


def word_shingles(text: str | Iterable[Turn], n: int = 3) -> set[str]:
    """The set of `n` successive words, joined by spaces, of a text or of all turns one after another.

    A text of fewer than `n` words is one shingle; one without words has none.
    """
    found = words(text if isinstance(text, str) else "\n".join(turn.text for turn in text))
    if len(found) < n:
        return {" ".join(found)} if found else set()
    return {" ".join(shingle) for shingle in zip(*(found[i:] for i in range(n)))}


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared / all; two empty sets are equal, 1.0."""
    if not a and not b:
        return 1.0
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
