"""One pass over a dialogue's words, shared by the filters and the near-duplicate search."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from extes_train.dialogue.shingles import words

_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(32)


@lru_cache(maxsize=1 << 16)
def word_hash(word: str) -> int:
    """A 64-bit hash that is the same in every process."""
    data = word.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) | zlib.adler32(data[::-1] + b"#") << 32


class TextView:
    """The words of several texts: `words[i]` of text i, `flat` of all in order, and a hash of each."""

    __slots__ = ("flat", "hashes", "lengths", "words")

    def __init__(self, texts: Sequence[str]) -> None:
        self.words = [words(text) for text in texts]
        self.lengths = [len(found) for found in self.words]
        self.flat = list(chain.from_iterable(self.words))
        self.hashes: NDArray[np.uint64] = np.fromiter(map(word_hash, self.flat), np.uint64, len(self.flat))

    def trigrams(self) -> NDArray[np.uint64]:
        """A hash of every 3 successive words of all texts one after another; one of all words where there are fewer."""
        h = self.hashes
        if len(h) == 0:
            return h
        if len(h) < 3:
            h = np.concatenate([h, np.zeros(3 - len(h), np.uint64)])
        mixed = h[:-2] * _MULTIPLIERS[0] + h[1:-1] * _MULTIPLIERS[1] + h[2:] * _MULTIPLIERS[2]
        mixed ^= mixed >> _SHIFT
        mixed *= _MIX
        return mixed ^ (mixed >> _SHIFT)

    def shingles(self) -> NDArray[np.uint64]:
        """The set of word 3-shingles (`extes_train.dialogue.shingles`) as sorted 64-bit hashes."""
        return np.unique(self.trigrams())

    def having(self, triggers: frozenset[str], of: range | None = None) -> list[int]:
        """The indices of the texts that hold one of `triggers`."""
        return [i for i in of or range(len(self.words)) if not triggers.isdisjoint(self.words[i])]


def word_set(text: str) -> frozenset[str]:
    """The words of a list written as one text."""
    return frozenset(text.split())
