"""Texts that repeat themselves."""

from __future__ import annotations

import numpy as np

from data_gen.filters.text import TextView, sorted_unique

MIN_WORDS = 8  # shorter utterances may repeat themselves
_SALT = np.uint64(0xD6E8FEB86659FD93)


def repetitive(view: TextView, limit: float) -> str | None:
    """Why the texts repeat themselves, or None.

    An utterance does if more than `limit` of its words lie in a 3-gram that it has said before; a dialogue does if an
    utterance of at least 8 words comes back word for word.
    """
    if len(view.flat) < MIN_WORDS or len(view.shingles()) == len(view.trigrams()):
        return None  # nothing is said twice
    long = [" ".join(found) for found in view.words if len(found) >= MIN_WORDS]
    if len(set(long)) < len(long):
        return "an utterance comes back word for word"
    lengths = np.array(view.lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    inside = owner[:-2] == owner[2:]
    salted = (view.trigrams() + owner[:-2].astype(np.uint64) * _SALT)[inside]
    if len(sorted_unique(np.sort(salted))) == len(salted):
        return None
    _, first = np.unique(salted, return_index=True)
    again = np.ones(len(salted), bool)
    again[first] = False
    covered = np.zeros(len(owner), bool)
    for offset in range(3):
        covered[np.flatnonzero(inside)[again] + offset] = True
    shares = np.bincount(owner, covered, len(lengths)) / np.maximum(lengths, MIN_WORDS)
    worst = int(shares.argmax())
    return f"turns[{worst}]: {shares[worst]:.0%} of the words repeat 3-grams of it" if shares[worst] > limit else None
