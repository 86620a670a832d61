"""How much generated responses differ from each other."""

from __future__ import annotations

from collections.abc import Sequence

from extes_train.dialogue.shingles import words


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct-n (Li et al., NAACL 2016): unique / total word n-grams over all texts together; 0 without any."""
    unique: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        found = words(text)
        grams = list(zip(*(found[i:] for i in range(n))))
        unique.update(grams)
        total += len(grams)
    return len(unique) / total if total else 0.0


def duplicate_share(texts: Sequence[str]) -> float:
    """Share of texts that another one equals, word by word: 1 - unique / all."""
    return 1 - len({" ".join(words(text)) for text in texts}) / len(texts) if texts else 0.0
